import { expressionPath } from '../migrate/changed-table.js';
import { ident, literal, qualified } from '../identifier.js';
import type { Session } from '../session.js';
import { isSessionLost, isUnknownName, isUnknownSetting, sqlState } from '../sqlstate.js';
import { NEW_GREEN, type Found, type SideCheck } from './check.js';
import { readCallers, type Caller } from './expression-callers.js';
import { listed } from './finding.js';

/*
 * An index, a check, a generated column or a materialized view may call a function whose body names others without their
 * schema: it works in every session of the application, whose search_path leads there. But indexes are built, views
 * refreshed and rows applied with an empty search_path, by PostgreSQL itself and by us: there it fails, after all rows
 * have been copied. A plan does not show it, since bodies are mostly read when they run. So each such expression is
 * computed once, as it will be on green.
 *
 * A superuser must not lend its rights to whoever has written such a function. PostgreSQL computes these expressions as the
 * owner of the table, and so do we then. Functions in C or with a search_path of their own know where they look.
 */

/** No single expression may take longer: an expensive one is left, since it has found its names by then. */
const EVALUATE_MS = 1_000;
/** All together; a database with thousands of them is not looked at to the end. */
const TOGETHER_MS = 15_000;
/** A function that is STRICT is not called for NULL: the first row alone may say nothing. */
const ROWS = 20;

export const functionPaths: SideCheck = {
  name: 'function-search-path',
  sides: ['blue'],
  run: async ({ session, plan, tables, isSuperuser }) => {
    const callers = await readCallers(session, {
      tables: (await tables()).map(({ oid }) => oid),
      // A standby brings what its views hold along.
      views: NEW_GREEN.includes(plan.bootstrap.method),
      functions: `NOT EXISTS (SELECT FROM unnest(p.proconfig) setting WHERE setting LIKE 'search\\_path=%')`,
    });
    const found: Found[] = [];
    const left: Caller[] = [];
    const began = performance.now();
    for (const caller of callers) {
      if (performance.now() - began > TOGETHER_MS) break;
      const as = isSuperuser ? whoComputes(caller) : 'us';
      if (as === 'nobody') left.push(caller);
      else {
        const why = await unknownName(session, caller, as);
        if (why !== undefined) found.push(await judge(session, caller, why));
      }
    }
    return left.length === 0 ? found : [...found, notComputed(left)];
  },
};

type As = 'us' | { readonly role: string };

/** On behalf of a superuser: only what superusers have written is computed with our rights. */
function whoComputes({ owner, functions }: Caller): As | 'nobody' {
  if (!owner.isSuperuser) return { role: owner.role };
  return functions.every((one) => one.owner.isSuperuser) ? 'us' : 'nobody';
}

function notComputed(callers: readonly Caller[]): Found {
  return {
    severity: 'info',
    object: listed(callers.map(({ object }) => object)),
    message:
      'these were not computed: they belong to a superuser, and call functions of other roles, which would have run with its rights. Whether those name something without its schema is not known',
    remedy:
      'See that the functions have a search_path of their own (ALTER FUNCTION ... SET search_path); or give the tables another owner',
  };
}

async function judge(session: Session, { object, functions }: Caller, error: Error): Promise<Found> {
  const why = `${sqlState(error) ?? ''}: ${error.message}`;
  if (isUnknownSetting(error)) {
    return {
      severity: 'error',
      object,
      message: `${object} calls ${listed(functions.map(({ signature }) => signature))}, which reads a setting that only sessions of the application have: where indexes are built, views refreshed and rows copied and applied, it fails (${why})`,
      remedy:
        'ALTER DATABASE ... SET it on blue and on green, or write current_setting(..., true) into the function, which gives NULL where there is none',
    };
  }
  const alter: string[] = [];
  for (const { signature, schema } of functions) {
    alter.push(`ALTER FUNCTION ${signature} SET search_path = ${await expressionPath(session, schema)}`);
  }
  return {
    severity: 'error',
    object,
    message: `${object} calls ${listed(functions.map(({ signature }) => signature))}, which names something without its schema: with the empty search_path with which indexes are built, views refreshed and rows copied and applied, it fails (${why})`,
    remedy: `On blue, with the schemas of what the function names: ${listed(alter)}; or write the schemas into its body`,
  };
}

/**
 * What PostgreSQL does not find when the expression is computed with an empty search_path. To plan any query on a table it
 * reads the functions of all its indexes and statistics: then only what fails without the table, too, is to blame.
 */
async function unknownName(session: Session, caller: Caller, as: As): Promise<Error | undefined> {
  if (caller.query !== null) return unknownIn(session, as, ofView(caller.query));
  const why = await unknownIn(session, as, overRows(caller, tableOf(caller)));
  if (why === undefined) return undefined;
  const alone = await unknownIn(session, as, overRows(caller, noRowsOf(caller)));
  if (alone !== undefined) return alone;
  const ofTable = `SELECT count(*) FROM (SELECT FROM ${tableOf(caller)} LIMIT 1) AS verdigris_row`;
  return (await unknownIn(session, as, ofTable)) === undefined ? why : undefined;
}

/** Any other error says nothing: another role may not read what we may. */
async function unknownIn(session: Session, as: As, sql: string): Promise<Error | undefined> {
  await session.query(
    `BEGIN READ WRITE; SET LOCAL statement_timeout = ${EVALUATE_MS}; SET LOCAL lock_timeout = ${EVALUATE_MS}`,
  );
  let isMade = as === 'us';
  try {
    if (as !== 'us') await session.query(functionOf(as.role, sql));
    isMade = true;
    await session.query(`SET LOCAL search_path = ''; SET TRANSACTION READ ONLY`);
    await session.query(as === 'us' ? sql : `SELECT ${COMPUTE}`);
    return undefined;
  } catch (error) {
    if (isSessionLost(error)) throw error;
    return isMade && isUnknownName(error) && error instanceof Error ? error : undefined;
  } finally {
    await session.query('ROLLBACK');
  }
}

const COMPUTE = 'pg_temp.verdigris_compute()';

/**
 * Unlike SET ROLE, a function that is SECURITY DEFINER is left by nothing that it calls: there, SET ROLE and RESET ROLE are
 * refused. Its body is read when it runs. Event triggers of the application are for its own DDL.
 */
function functionOf(role: string, sql: string): string {
  return `SET LOCAL check_function_bodies = off; SET LOCAL session_replication_role = replica;
    CREATE FUNCTION ${COMPUTE} RETURNS bigint LANGUAGE sql VOLATILE SECURITY DEFINER AS ${literal(sql)};
    ALTER FUNCTION ${COMPUTE} OWNER TO ${ident(role)};
    SET LOCAL session_replication_role = origin`;
}

/** Values are counted, so that none leaves the server. Where there is no row it is one of NULLs. */
function overRows({ expression }: Caller, from: string): string {
  return `SELECT count(verdigris_row)
            FROM (SELECT ROW(${expression ?? ''}) AS verdigris_row
                    FROM (VALUES (0)) AS verdigris_one (verdigris_n) LEFT JOIN ${from} ON true LIMIT ${ROWS}) AS verdigris_rows`;
}

function ofView(query: string): string {
  return `SELECT count(verdigris_row) FROM (SELECT * FROM (${query}\n) AS verdigris_view LIMIT 1) AS verdigris_row`;
}

function tableOf({ schema, name, partitioned }: Caller): string {
  return `${partitioned ? '' : 'ONLY '}${qualified({ schema, name })} AS ${ident(name)}`;
}

/** Of the table's type: an expression may name the whole row. */
function noRowsOf({ schema, name }: Caller): string {
  return `pg_catalog.unnest(ARRAY[]::${qualified({ schema, name })}[]) AS ${ident(name)}`;
}
