import { attempt } from './expressions.js';
import type { Plan } from './schema.js';
import { SqlSyntaxError, isObject, namesOf, parseStatements } from './sql-tree.js';

/** A type as the parser sees it: `varchar(50)[]` is name `varchar`, modifiers [50], array. */
export interface SqlType {
  /** PostgreSQL's internal name: int4, varchar, timestamptz. With a schema when it is not pg_catalog. */
  readonly name: string;
  readonly modifiers: readonly number[];
  readonly array: boolean;
}

/** The type of a step, and what the parser makes of it. */
export interface TypeFact {
  readonly index: number;
  readonly place: string;
  readonly text: string;
  readonly parsed: SqlType | undefined;
  readonly error: string | undefined;
}

/** The type of every new column. */
export async function readTypes(plan: Plan): Promise<TypeFact[]> {
  const facts: TypeFact[] = [];
  for (const [index, migration] of plan.migrations.entries()) {
    const operation = 'addColumn' in migration ? 'addColumn' : 'changeType' in migration ? 'changeType' : undefined;
    if (operation === undefined) continue;
    const text =
      'addColumn' in migration ? migration.addColumn.type : 'changeType' in migration ? migration.changeType.type : '';
    facts.push({
      index,
      place: `migrations[${index}].${operation}.type`,
      text,
      ...(await attempt(() => parseType(text))),
    });
  }
  return facts;
}

/**
 * Reads a type as it stands in CREATE TABLE.
 *
 * @throws SqlSyntaxError when the text is anything more, such as `integer NOT NULL`.
 */
export async function parseType(text: string): Promise<SqlType> {
  const [statement, second] = await parseStatements(`CREATE TABLE t (c ${text}\n)`);
  const table = statement !== undefined && 'CreateStmt' in statement.node ? statement.node.CreateStmt : undefined;
  const [element, another] = table?.tableElts ?? [];
  const column = element !== undefined && 'ColumnDef' in element ? element.ColumnDef : undefined;
  const more = table?.options ?? table?.inhRelations ?? table?.partspec ?? table?.tablespacename;
  if (
    second !== undefined ||
    another !== undefined ||
    more !== undefined ||
    column?.typeName === undefined ||
    column.constraints !== undefined
  ) {
    throw new SqlSyntaxError(`"${text}" is more than a type`);
  }
  const names = namesOf(column.typeName.names);
  return {
    name: names[0] === 'pg_catalog' ? names.slice(1).join('.') : names.join('.'),
    modifiers: (column.typeName.typmods ?? []).flatMap(integerOf),
    array: (column.typeName.arrayBounds ?? []).length > 0,
  };
}

/** `varchar(50)`: the 50. The parser leaves a zero away. */
function integerOf(node: unknown): number[] {
  const constant = isObject(node) ? node['A_Const'] : undefined;
  const integer = isObject(constant) ? constant['ival'] : undefined;
  if (!isObject(integer)) return [];
  return [typeof integer['ival'] === 'number' ? integer['ival'] : 0];
}

/**
 * Why a column of type `to` can't hold every value of type `from`; undefined when it can, or when nothing is known of
 * the two.
 */
export function cannotHold(from: SqlType, to: SqlType): string | undefined {
  if (from.array || to.array) return undefined;
  const rank = (type: SqlType) => WIDTHS.map((family) => family.indexOf(type.name));
  for (const [family, at] of rank(from).entries()) {
    const other = rank(to)[family] ?? -1;
    if (at >= 0 && other >= 0 && other < at) return `${to.name} is narrower than ${from.name}`;
  }
  if (isText(from) && isText(to)) return shorter(from, to);
  if (from.name === 'numeric') return numericCannotHold(from, to);
  if (from.name === 'float8' && INTEGERS.includes(to.name)) return `${to.name} has no fraction`;
  if (from.name === 'float4' && INTEGERS.includes(to.name)) return `${to.name} has no fraction`;
  return undefined;
}

const INTEGERS = ['int2', 'int4', 'int8'];

/** Types of one family, the narrowest first. */
const WIDTHS: readonly (readonly string[])[] = [
  INTEGERS,
  ['float4', 'float8'],
  ['date', 'timestamp', 'timestamptz'],
  ['time', 'timetz'],
];

function isText(type: SqlType): boolean {
  return ['text', 'varchar', 'bpchar', 'name'].includes(type.name);
}

function shorter(from: SqlType, to: SqlType): string | undefined {
  const most = longest(to);
  return most < longest(from)
    ? `${to.name}(${most}) holds at most ${most} characters, the old column ${limit(longest(from))}`
    : undefined;
}

function longest(type: SqlType): number {
  if (type.name === 'name') return 63;
  return type.modifiers[0] ?? (type.name === 'bpchar' ? 1 : Infinity);
}

function limit(length: number): string {
  return length === Infinity ? 'has no limit' : `holds ${length}`;
}

/** So many decimal digits always fit. */
const SAFE_DIGITS: Readonly<Record<string, number>> = { int2: 4, int4: 9, int8: 18 };

function numericCannotHold(from: SqlType, to: SqlType): string | undefined {
  const [precision = Infinity, scale = precision === Infinity ? Infinity : 0] = from.modifiers;
  const digits = SAFE_DIGITS[to.name];
  // Whether a fraction is lost is for "up" to say: (price * 100)::bigint keeps it.
  if (digits !== undefined) return precision > digits ? `${to.name} is narrower than numeric` : undefined;
  if (to.name === 'float4' || to.name === 'float8') return `${to.name} is not exact`;
  if (to.name !== 'numeric' || to.modifiers.length === 0) return undefined;
  const [newPrecision = 0, newScale = 0] = to.modifiers;
  const integerDigits = precision - (scale === Infinity ? 0 : scale);
  return newScale < scale || newPrecision - newScale < integerDigits
    ? `numeric(${newPrecision},${newScale}) has fewer digits than the old column`
    : undefined;
}
