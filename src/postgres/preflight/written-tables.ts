/** Which tables the text of a function writes, as far as that can be made out. */

/** A table as a statement names it: folded as PostgreSQL does; without a schema the search_path decides. */
export interface WrittenTable {
  readonly schema: string | null;
  readonly name: string;
}

const IDENTIFIER = String.raw`(?:"(?:[^"]|"")+"|[\p{L}_][\p{L}\p{N}_$]*)`;
/** ON CONFLICT DO UPDATE and FOR [NO KEY] UPDATE are parts of another statement; 'UPDATE' as a value ends with a quote. */
const WRITE = new RegExp(
  String.raw`\b(?:insert\s+into|(?<!\b(?:do|for|key)\s+)update|delete\s+from|merge\s+into|truncate(?:\s+table\b)?)(?=[\s"])(?:\s+only\b)?\s*(?:(?:(${IDENTIFIER})\.)?(${IDENTIFIER})(?=[\s;()]|$)(?!\s*[.,]))?`,
  'giu',
);
const QUOTED_OR_COMMENT =
  /\be'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$([a-z_]\w*)?\$[^]*?\$\1\$|"(?:[^"]|"")*"|--[^\n]*|\/\*[^]*?\*\//gi;
/** What runs a text as a statement: only with one of these are the literals of a function more than words. */
const DYNAMIC = /\b(?:execute|dblink\w*)\b/i;

/**
 * The tables that a function writes by the statements in its text; what it calls is not looked into. Null where one of
 * them can't be made out, as in dynamic SQL.
 */
export function writtenTables(language: string, text: string): readonly WrittenTable[] | null {
  const code = language === 'plpgsql' ? statementsOf(text) : text;
  const written = [...code.matchAll(WRITE)].map(([, schema, name]) =>
    name === undefined ? null : { schema: schema === undefined ? null : folded(schema), name: folded(name) },
  );
  const known = written.filter((table) => table !== null);
  const isDynamic = written.length > 0 && DYNAMIC.test(code);
  return isDynamic || known.length < written.length ? null : known;
}

/** Without what is only said: comments, and literals where nothing runs a text. */
function statementsOf(text: string): string {
  const bare = text.replace(QUOTED_OR_COMMENT, (part) => (part.startsWith('"') ? part : ' '));
  if (!DYNAMIC.test(bare)) return bare;
  return text.replace(QUOTED_OR_COMMENT, (part) => (/^(--|\/\*)/.test(part) ? ' ' : part));
}

function folded(identifier: string): string {
  return identifier.startsWith('"') ? identifier.slice(1, -1).replaceAll('""', '"') : identifier.toLowerCase();
}
