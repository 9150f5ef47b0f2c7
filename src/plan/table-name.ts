/** A table as a plan names it: schema and name, both exact (no case folding). */
export interface TableName {
  readonly schema: string;
  readonly name: string;
}

/**
 * Reads the name of a table in a plan: `orders`, `shop.orders`, `shop."Order Items"` or `"odd.schema"."Odd ""name"""`.
 * Without quotes a name is taken as it is, with its case and its spaces; without a schema it is in `public`.
 *
 * @throws RangeError when a quote is not closed or a part is empty.
 */
export function parseTableName(text: string): TableName {
  const parts = splitName(text);
  const [first, second] = parts;
  if (first === undefined || parts.length > 2 || parts.some((part) => part === '')) {
    throw new RangeError(`"${text}" is not the name of a table: write table, schema.table or schema."Odd name"`);
  }
  return second === undefined ? { schema: 'public', name: first } : { schema: first, name: second };
}

/**
 * Splits at the dots outside quotes, and takes the quotes away.
 *
 * @param read what each other character stands for. Default: itself
 * @throws RangeError when a quote is not closed
 */
export function splitName(
  text: string,
  read: (character: string, quoted: boolean) => string = (character) => character,
): string[] {
  const parts: string[] = [];
  let part = '';
  let quoted = false;
  const characters = [...text];
  for (let i = 0; i < characters.length; i++) {
    const c = characters[i] ?? '';
    if (c === '"' && quoted && characters[i + 1] === '"') {
      part += '"';
      i++;
    } else if (c === '"') quoted = !quoted;
    else if (c === '.' && !quoted) {
      parts.push(part);
      part = '';
    } else part += read(c, quoted);
  }
  if (quoted) throw new RangeError(`"${text}" has an opening quote that is not closed`);
  return [...parts, part];
}

/** The name as people and logs see it: `public.orders`, `shop."Order Items"`. */
export function formatTableName(table: TableName): string {
  return `${formatName(table.schema)}.${formatName(table.name)}`;
}

/** How many tables a line names: with the longest names it stays below the 400 bytes that Temporal allows a summary. */
const NAMED = 2;

/** Of tables that were named in this way as many as fit into one line: `public.a, public.b and 198 more`. */
export function fewTables(names: readonly string[]): string {
  const more = names.length - NAMED;
  return `${names.slice(0, NAMED).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

/** One name in the same way: `orders`, `"Order Items"`. */
export function formatName(part: string): string {
  return /^[a-z_][a-z0-9_$]*$/.test(part) ? part : `"${part.replaceAll('"', '""')}"`;
}
