/** Which tables the text of a function writes or reads, as far as that can be made out. */

/** A table as a statement names it: folded as PostgreSQL does; without a schema the search_path decides. */
export interface NamedInText {
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
export function writtenTables(language: string, text: string): readonly NamedInText[] | null {
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

/** What stands where a table may: no function, which has brackets. */
const SOURCE = String.raw`(?:only\s+)?(?:${IDENTIFIER}\s*\.\s*)?${IDENTIFIER}(?![\p{L}\p{N}_$"])(?!\s*[.(])`;
const ALIAS = String.raw`(?:\s+(?:as\s+)?${IDENTIFIER})?`;
/** IS DISTINCT FROM has no table behind it. */
const FROM = new RegExp(
  String.raw`(?<!\bdistinct\s+)\b(?:from|join)\s+(${SOURCE}(?:${ALIAS}\s*,\s*${SOURCE})*)`,
  'giu',
);
/** That of trim(both FROM ...), extract(year FROM ...) and the like: right within their brackets, behind values and calls. */
const FROM_OF_VALUE =
  /(?<=\b(?:extract|overlay|substring|trim)\s*\((?:(?!\bselect\b)[^()]|\((?:[^()]|\([^()]*\))*\))*)\bfrom\b/giu;
const ONE_SOURCE = new RegExp(String.raw`^(?:only\s+)?(?:(${IDENTIFIER})\s*\.\s*)?(${IDENTIFIER})`, 'iu');
/** Of WITH; a name of its own hides that of a table. */
const SUBQUERY = new RegExp(
  String.raw`(${IDENTIFIER})\s*(?:\([^()]*\)\s*)?\bas\s+(?:(?:not\s+)?materialized\s+)?\(`,
  'giu',
);

/**
 * What may be tables that a function in SQL or PL/pgSQL reads, by the statements in its text: a cursor may have
 * such a name, too. What it calls is not looked into.
 */
export function tablesRead(text: string): readonly NamedInText[] {
  const code = statementsOf(text).replace(FROM_OF_VALUE, ',');
  const hidden = new Set([...code.matchAll(SUBQUERY)].map(([, name = '']) => folded(name)));
  return [...code.matchAll(FROM)].flatMap(([, sources = '']) =>
    sourcesIn(sources).filter(({ schema, name }) => schema !== null || !hidden.has(name)),
  );
}

function sourcesIn(list: string): NamedInText[] {
  return list.split(',').flatMap((part) => {
    const [, schema, name] = ONE_SOURCE.exec(part.trim()) ?? [];
    if (name === undefined) return [];
    return [{ schema: schema === undefined ? null : folded(schema), name: folded(name) }];
  });
}
