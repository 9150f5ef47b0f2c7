import { USER_SCHEMA } from './catalog.js';
import type { Session } from './session.js';

/*
 * Whether two servers give the same value for the same expression over the same row. Those of one major version with the
 * same locale and libraries of collations do, where their tables of time zones do not differ. Others need not: text search
 * stems words otherwise (to_tsvector('english', 'added') is 'ad' before 18), lower() asks the locale, AT TIME ZONE the
 * server's table of zones, and functions of users call any of these. So for others an expression must be made of parts
 * that are known to be the same everywhere.
 */

/** The versions of what sorts the columns that have a collation of their own: the database's may be of another provider. */
const LIBRARIES = `
  SELECT json_agg(DISTINCT jsonb_build_array(o.collprovider, pg_collation_actual_version(o.oid)))
    FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_collation o ON o.oid = a.attcollation AND o.collprovider <> 'd'
   WHERE a.attnum > 0 AND NOT a.attisdropped AND ${USER_SCHEMA} AND pg_collation_actual_version(o.oid) IS NOT NULL`;

/** What must be the same on two servers for all their answers to be. As text, to be compared. */
export async function answersBy(session: Session): Promise<string> {
  const { rows } = await session.query<{ kind: string }>(
    `SELECT json_build_array(current_setting('server_version_num')::int / 10000, pg_encoding_to_char(d.encoding),
                             d.datlocprovider, d.datcollate, d.datctype, pg_database_collation_actual_version(d.oid),
                             coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
                             to_jsonb(d) ->> 'daticurules', (${LIBRARIES}))::text AS kind
       FROM pg_database d WHERE d.datname = current_database()`,
  );
  return rows[0]?.kind ?? '';
}

/** Nodes of an expression that mean the same on all versions, as these call them, and those of a view around it. */
const NODES: ReadonlySet<string> = new Set(
  `QUERY RTE RANGETBLENTRY RTEPERMISSIONINFO ALIAS FROMEXPR RANGETBLREF TARGETENTRY
   VAR CONST FUNCEXPR OPEXPR DISTINCTEXPR NULLIFEXPR SCALARARRAYOPEXPR BOOLEXPR RELABELTYPE COERCEVIAIO ARRAYCOERCEEXPR
   CASE CASEEXPR WHEN CASEWHEN CASETESTEXPR ARRAY ARRAYEXPR COALESCE COALESCEEXPR MINMAX MINMAXEXPR NULLTEST BOOLEANTEST
   SUBSCRIPTINGREF COLLATE COLLATEEXPR`.split(/\s+/),
);

/** Types whose order is the same on every server. */
const ORDERED: ReadonlySet<string> = new Set([
  ...['boolean', 'smallint', 'integer', 'bigint', 'numeric', 'real', 'double precision', 'uuid', 'bytea', 'inet'],
  ...['date', 'time without time zone', 'timestamp without time zone', 'timestamp with time zone'],
]);
const TEXTS = ['text', 'character varying', 'character', '"char"', 'name', 'unknown'];
/** Also enums, and arrays and domains of all these. Without interval, whose rounding and parsing have changed. */
const PLAIN: ReadonlySet<string> = new Set([
  ...ORDERED,
  ...TEXTS,
  ...['json', 'jsonb', 'cidr', 'macaddr', 'bit', 'bit varying'],
]);
/** Text becomes one of these by rules that have changed, and by the server's table of time zones. */
const NOT_FROM_TEXT = /^(date|time without time zone|timestamp with(out)? time zone)$/;
const ZONED = 'timestamp with time zone';

/** Operators of PostgreSQL's own that ask neither a locale nor anything else, over plain types. */
const OPERATORS: ReadonlySet<string> = new Set(
  '+ - * / % & | # << >> @ || = <> -> ->> #> #>> #- ? ?| ?& @> <@ && ^@ ~~ !~~'.split(' '),
);
const COMPARISONS: ReadonlySet<string> = new Set(['<', '<=', '>', '>=']);

/** The same for functions. The settings that some of them ask are fixed in all sessions of ours. */
const FUNCTIONS: ReadonlySet<string> = new Set(
  `substr substring left right length char_length character_length octet_length bit_length concat concat_ws replace split_part
   repeat reverse lpad rpad btrim ltrim rtrim strpos position overlay translate starts_with ascii chr to_hex encode decode md5
   sha224 sha256 sha384 sha512 quote_literal quote_nullable like notlike
   abs round trunc ceil ceiling floor sign mod div gcd lcm extract date_part date_trunc make_date num_nulls num_nonnulls
   to_json to_jsonb json_build_object jsonb_build_object json_build_array jsonb_build_array json_object jsonb_object
   json_extract_path json_extract_path_text jsonb_extract_path jsonb_extract_path_text json_typeof jsonb_typeof
   json_array_length jsonb_array_length json_strip_nulls jsonb_strip_nulls jsonb_set jsonb_insert row_to_json
   array_length array_upper array_lower array_ndims cardinality array_append array_prepend array_cat array_remove
   array_to_string string_to_array array_to_json`.split(/\s+/),
);
/** Functions with forms that ask more than the plain one does: regular expressions, names of time zones. */
const SECOND_ARGUMENT: Readonly<Record<string, string>> = { substring: 'integer', substr: 'integer' };
const MOST_ARGUMENTS: Readonly<Record<string, number>> = { date_trunc: 2 };

interface Call {
  readonly schema: string;
  readonly name: string;
  /** Its symbol, of an operator. */
  readonly operator: string | null;
  readonly isCast: boolean;
  readonly arguments: readonly string[];
  /** False under a collation that calls different texts equal. */
  readonly deterministic: boolean;
}

interface TypeRow {
  readonly oid: string;
  /** Of arrays that of their elements, of domains that of their base. */
  readonly name: string;
  readonly isEnum: boolean;
}

/**
 * Whether an expression is made of parts alone that give the same on every server, whatever its version and locale.
 *
 * @param tree as the catalog has it (pg_node_tree): every name in it is resolved, casts that nobody wrote included.
 * @param onOther asks the other server for the tree of the same expression. Default: nobody knows how it has read constants.
 */
export async function isSameEverywhere(
  session: Session,
  tree: string,
  onOther?: () => Promise<string>,
): Promise<boolean> {
  // Within names such characters have a backslash before them.
  const nodes = [...tree.matchAll(/(?<!\\)\{([A-Z]+)/g)].map(([, node = '']) => node);
  if (!nodes.every((node) => NODES.has(node))) return false;
  const types = await readTypes(session, tree);
  const namesOf = (field: string): string[] => oidsOf(tree, field).map((oid) => types.get(oid)?.name ?? '');
  const isPlain = ({ name, isEnum }: TypeRow): boolean => isEnum || PLAIN.has(name);
  if (![...types.values()].every(isPlain)) return false;
  if (namesOf('resulttype').some((name) => NOT_FROM_TEXT.test(name))) return false;
  if (!namesOf('minmaxtype').every((name) => ORDERED.has(name))) return false;
  if (!(await readCalls(session, tree)).every(isKnown)) return false;
  const zoned = oidsOf(tree, 'consttype').filter((oid) => types.get(oid)?.name === ZONED);
  return zoned.length === 0 || (onOther !== undefined && sameConstants(zoned, tree, await onOther()));
}

/** Whether two servers have read the text of these types' constants as the same values: then it is of no moment how. */
function sameConstants(types: readonly string[], one: string, other: string): boolean {
  const [here, there] = [one, other].map((tree) => constantsOf(types, tree));
  return JSON.stringify(here) === JSON.stringify(there);
}

const CONSTANT = /(?<!\\)\{CONST :consttype (\d+) [^{}]*?:constisnull (\w+) [^{}]*?:constvalue ([^{}]*)\}/g;

/** The bytes of their values. PostgreSQL's own types have the same numbers on all servers. */
function constantsOf(types: readonly string[], tree: string): string[][] {
  return [...tree.matchAll(CONSTANT)].map((found) => found.slice(1)).filter(([type = '']) => types.includes(type));
}

function isKnown({ schema, name, operator, isCast, arguments: types, deterministic }: Call): boolean {
  if (schema === 'verdigris') return name === 'try_jsonb';
  if (schema !== 'pg_catalog') return false;
  if (operator === null && isCast) return true;
  if (operator === '||') return true;
  if (!deterministic) return false;
  if (operator !== null) {
    return OPERATORS.has(operator) || (COMPARISONS.has(operator) && types.every((type) => ORDERED.has(type)));
  }
  const second = SECOND_ARGUMENT[name];
  if (second !== undefined && types[1] !== second) return false;
  return FUNCTIONS.has(name) && types.length <= (MOST_ARGUMENTS[name] ?? types.length);
}

function oidsOf(tree: string, field: string): string[] {
  return [...tree.matchAll(new RegExp(`:${field} (\\d+)`, 'g'))].map(([, oid = '0']) => oid);
}

/** Fields with the type of a value. */
const TYPE_FIELD =
  '(?:vartype|consttype|funcresulttype|opresulttype|resulttype|casetype|coalescetype|minmaxtype|array_typeid|element_typeid|refcontainertype|refelemtype|refrestype)';

async function readTypes(session: Session, tree: string): Promise<ReadonlyMap<string, TypeRow>> {
  const { rows } = await session.query<TypeRow>(
    `SELECT t.oid::text AS oid, pg_catalog.format_type(element.oid, NULL) AS name, element.typtype = 'e' AS "isEnum"
       FROM pg_catalog.pg_type t
       JOIN pg_catalog.pg_type base ON base.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
       JOIN pg_catalog.pg_type element ON element.oid = CASE base.typcategory WHEN 'A' THEN base.typelem ELSE base.oid END
      WHERE t.oid = ANY ($1::oid[])`,
    [oidsOf(tree, TYPE_FIELD)],
  );
  return new Map(rows.map((row) => [row.oid, row]));
}

/** What is called: the number of an operator or function, and the collation that it is told to use. */
const CALL = /\{(?:(FUNCEXPR) :funcid|[A-Z]+ :opno) (\d+) [^{}()]*?:inputcollid (\d+)/g;

async function readCalls(session: Session, tree: string): Promise<Call[]> {
  const calls = [...tree.matchAll(CALL)];
  const { rows } = await session.query<Call>(
    `SELECT n.nspname AS schema, p.proname AS name, o.oprname AS operator,
            EXISTS (SELECT FROM pg_catalog.pg_cast c WHERE c.castfunc = p.oid) AS "isCast",
            ARRAY(SELECT pg_catalog.format_type(type, NULL)
                    FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a (type, i) ORDER BY i) AS arguments,
            coalesce(l.collisdeterministic, true) AS deterministic
       FROM unnest($1::bool[], $2::oid[], $3::oid[]) AS called ("isFunction", oid, "collation")
       LEFT JOIN pg_catalog.pg_operator o ON NOT called."isFunction" AND o.oid = called.oid
       JOIN pg_catalog.pg_proc p ON p.oid = CASE WHEN called."isFunction" THEN called.oid ELSE o.oprcode END
       JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
       LEFT JOIN pg_catalog.pg_collation l ON l.oid = called."collation"`,
    [calls.map(([, isFunction]) => isFunction !== undefined), calls.map((c) => c[2]), calls.map((c) => c[3])],
  );
  return rows;
}
