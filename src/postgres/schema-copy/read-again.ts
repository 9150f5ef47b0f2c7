import { parseTableName, type TableName } from '../../plan/table-name.js';
import { SILENCE_EVENT_TRIGGERS } from '../event-triggers.js';
import { ident, qualified } from '../identifier.js';
import { BEGIN, type Session } from '../session.js';
import { isConnectionLost } from '../sqlstate.js';
import type { DescribedObject } from './catalog-description.js';

/*
 * What a server writes about an expression is not always what it writes once it has read that: `v IN ('a', 'b')` over a
 * varchar becomes ANY ((ARRAY['a'::character varying, ...])::text[]), and that, read again, casts each element. So blue's
 * own text is read by green, on an empty copy of the table that is rolled back, before it is called another one.
 */

/** Where blue's text has been read: an object in pg_temp, and the query of what the server writes about it. */
type ReadAgain = (place: Place, text: string) => Promise<string | undefined>;

interface Place {
  readonly green: Session;
  readonly blue: DescribedObject;
  /** The name of the text in the description. */
  readonly fact: string;
}

const SHAPE = 'verdigris_shape';

/**
 * What green writes about blue's own SQL.
 *
 * @returns undefined where that can't be found out.
 */
export async function readAgain(green: Session, blue: DescribedObject, fact: string): Promise<string | undefined> {
  const text = blue.text[fact];
  const read = READERS[blue.kind];
  if (text === null || text === undefined || read === undefined) return undefined;
  await green.query(BEGIN);
  try {
    await green.query(
      `SELECT set_config('search_path', 'pg_catalog', true), set_config('check_function_bodies', 'off', true),
              set_config('quote_all_identifiers', 'on', true)`,
    );
    await green.query(SILENCE_EVENT_TRIGGERS);
    return await read({ green, blue, fact }, text);
  } catch (error) {
    if (isConnectionLost(error)) throw error;
    return undefined;
  } finally {
    await green.query('ROLLBACK').catch(() => undefined);
  }
}

const READERS: Readonly<Record<string, ReadAgain>> = {
  // The bounds of partitions are constants.
  table: (_, text) => Promise.resolve(text),
  view: async ({ green }, text) => {
    await green.query(`CREATE TEMPORARY VIEW ${SHAPE} AS ${text.replace(/;\s*$/, '')}`);
    return written(green, `pg_get_viewdef('pg_temp.${SHAPE}'::regclass)`);
  },
  column: async (place, text) => {
    const { green, blue } = place;
    const copy = await emptyCopy(place);
    const column = ident(partOf(blue));
    if (blue.facts.generated === '') {
      await green.query(`ALTER TABLE ${copy.sql} ALTER COLUMN ${column} SET DEFAULT ${text}`);
    } else {
      const stored = blue.facts.generated === 'v' ? 'VIRTUAL' : 'STORED';
      await green.query(
        `ALTER TABLE ${copy.sql} DROP COLUMN ${column},
           ADD COLUMN ${column} ${String(blue.facts.type)} GENERATED ALWAYS AS (${text}) ${stored}`,
      );
    }
    return written(
      green,
      `(SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
         WHERE d.adrelid = $1::regclass AND a.attname = $2)`,
      [copy.sql, partOf(blue)],
    );
  },
  index: async (place, text) => {
    const { green, blue } = place;
    const copy = await emptyCopy(place);
    // The copy of a partitioned table has no partitions.
    await green.query(moved(text, ' ON ', copy).replace(' ON ONLY ', ' ON '));
    const read = await written(green, `pg_get_indexdef(to_regclass('pg_temp.' || quote_ident($1)))`, [partOf(blue)]);
    return text.includes(' ON ONLY ') ? read?.replace(' ON ', ' ON ONLY ') : read;
  },
  constraint: async (place, text) => {
    // A key has no expression.
    if (place.blue.facts.type !== 'c' && place.blue.facts.type !== 'x') return text;
    const copy = await emptyCopy(place);
    await place.green.query(`ALTER TABLE ${copy.sql} ADD CONSTRAINT ${SHAPE} ${text}`);
    return written(
      place.green,
      `(SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1::regclass AND conname = '${SHAPE}')`,
      [copy.sql],
    );
  },
  trigger: async (place, text) => {
    const copy = await emptyCopy(place);
    await place.green.query(moved(text, ' ON ', copy));
    return written(place.green, `(SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = $1::regclass)`, [
      copy.sql,
    ]);
  },
  rule: async (place, text) => {
    const copy = await emptyCopy(place);
    await place.green.query(moved(text, ' TO ', copy));
    return written(place.green, `(SELECT pg_get_ruledef(oid) FROM pg_rewrite WHERE ev_class = $1::regclass)`, [
      copy.sql,
    ]);
  },
  policy: async (place, text) => {
    const copy = await emptyCopy(place);
    const clause = place.fact === 'using' ? 'USING' : 'WITH CHECK';
    await place.green.query(`CREATE POLICY ${SHAPE} ON ${copy.sql} ${clause} (${text})`);
    return written(
      place.green,
      `(SELECT pg_get_expr(coalesce(polqual, polwithcheck), polrelid) FROM pg_policy WHERE polrelid = $1::regclass)`,
      [copy.sql],
    );
  },
  type: async ({ green, blue, fact }, text) => {
    if (blue.facts.type !== 'd') return text;
    await green.query(
      `CREATE DOMAIN pg_temp.${SHAPE} AS ${String(blue.facts.base)} ${fact === 'default' ? `DEFAULT ${text}` : text}`,
    );
    return written(
      green,
      fact === 'default'
        ? `(SELECT pg_get_expr(typdefaultbin, 0) FROM pg_type WHERE oid = 'pg_temp.${SHAPE}'::regtype)`
        : // Made in the order in which they are written.
          `(SELECT string_agg(pg_get_constraintdef(oid), ' ' ORDER BY oid) FROM pg_constraint
             WHERE contypid = 'pg_temp.${SHAPE}'::regtype AND contype = 'c')`,
    );
  },
  function: async ({ green, blue, fact }, text) => {
    const { kind, result, language } = blue.facts;
    const routine = kind === 'p' ? 'PROCEDURE' : 'FUNCTION';
    const ofSql = blue.text['SQL body'];
    const args = blue.text['all arguments'] ?? '';
    const returns = kind === 'p' || result === null ? '' : `RETURNS ${String(result)}`;
    const body = ofSql ?? `AS 'SELECT 1'`;
    if (ofSql !== null && language !== 'sql') return undefined;
    await green.query(`CREATE ${routine} pg_temp.${SHAPE}(${args}) ${returns} LANGUAGE sql ${body}`);
    const what = fact === 'SQL body' ? 'pg_get_function_sqlbody' : 'pg_get_function_arguments';
    return written(
      green,
      `(SELECT ${what}(oid) FROM pg_proc WHERE proname = '${SHAPE}' AND pronamespace = pg_my_temp_schema())`,
    ).then((read) => read ?? (text === '' ? '' : undefined));
  },
  statistics: async (place, text) => {
    const copy = await emptyCopy(place);
    const { green, blue } = place;
    const name = parseTableName(blue.object);
    const onCopy = moved(text, ' FROM ', copy).replace(
      `CREATE STATISTICS ${await quoted(green, name)} `,
      () => `CREATE STATISTICS pg_temp.${ident(name.name)} `,
    );
    await green.query(onCopy);
    return written(green, `(SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext WHERE stxrelid = $1::regclass)`, [
      copy.sql,
    ]);
  },
};

interface Copy {
  /** Quoted, in pg_temp. */
  readonly sql: string;
  /** The table that it is a copy of, as a server writes it. */
  readonly of: string;
}

/** An empty table with the columns of the object's relation, under the same name: that may stand in the text. */
async function emptyCopy({ green, blue }: Place): Promise<Copy> {
  const table = parseTableName(blue.relation ?? '');
  const generated = blue.kind === 'column' ? '' : 'INCLUDING GENERATED';
  await green.query(`CREATE TEMPORARY TABLE ${ident(table.name)} (LIKE ${qualified(table)} ${generated})`);
  return { sql: `pg_temp.${ident(table.name)}`, of: await quoted(green, table) };
}

async function quoted(green: Session, { schema, name }: TableName): Promise<string> {
  return (await written(green, `format('%I.%I', $1::text, $2::text)`, [schema, name])) ?? '';
}

/** A definition with the copy in the place of its table. */
function moved(definition: string, before: string, copy: Copy): string {
  const only = `${before}ONLY ${copy.of}`;
  const found = definition.includes(only) ? only : `${before}${copy.of}`;
  if (!definition.includes(found)) throw new Error('the text names another table');
  return definition.replace(found, () => (found === only ? `${before}ONLY ${copy.sql}` : `${before}${copy.sql}`));
}

/** The last part of an object's name: the column, constraint, index. */
function partOf({ kind, object, relation }: DescribedObject): string {
  if (kind === 'index') return parseTableName(object).name;
  return parseTableName(`x${object.slice(relation?.length ?? 0)}`).name;
}

async function written(green: Session, sql: string, values: readonly string[] = []): Promise<string | undefined> {
  const { rows } = await green.query<{ text: string | null }>(`SELECT ${sql} AS text`, [...values]);
  return rows[0]?.text ?? undefined;
}
