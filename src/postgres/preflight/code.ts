import { formatTableName } from '../../plan/table-name.js';
import { harms, type Harm, type WritingCode } from './applied-harm.js';
import { ident } from '../identifier.js';
import { planWork } from '../migrate/plan-work.js';
import type { Side } from '../../side.js';
import type { Session } from '../session.js';
import { NO_RIGHT, sqlState, UNDEFINED_FUNCTION } from '../sqlstate.js';
import {
  BOTH_SIDES,
  NEW_GREEN,
  oneRow,
  type Found,
  type PairCheck,
  type SideCheck,
  type SideContext,
} from './check.js';
import { listed } from './finding.js';

/** Checks of code in a database: triggers, rules, policies, functions. */

/** In the text of a function; what it calls is not looked into. */
const WRITES = String.raw`\m(insert\s+into|update\M[^;]*\mset|delete\s+from|merge\s+into|truncate)\M`;
/** A BEFORE trigger that changes the row: `=` compares as well, unless it stands where a statement begins. */
const NEW_ROW = String.raw`new\M(\s*\.\s*("[^"]+"|\w+))?\s*`;
const ASSIGNS = String.raw`\m${NEW_ROW}:=|(;|\m(then|else|begin|loop))\s*${NEW_ROW}=|\minto\s+(strict\s+)?new\M`;
/** Not a function of the row alone: the time, a random or a next value, what was there and something more. */
const EACH_TIME_ANOTHER = String.raw`\m(?:now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|random|gen_random_uuid|uuidv[47]|uuid_generate_v\w+|nextval|txid_current|pg_current_xact_id)\s*\(|\m(?:current_(?:date|time|timestamp|user|role)|localtime|localtimestamp|session_user)\M|\mnew\.(\w+)\s*:?=\s*new\.\1\s*(?:[-+*/]|\|\|)`;

/** Apply fires row triggers only. A function that looks at session_replication_role tells itself what to leave out. */
const FOR_APPLIED = `t.tgtype & 1 <> 0 AND p.prosrc !~* 'session_replication_role'`;

interface ReplicaTrigger extends WritingCode {
  readonly table: number;
  readonly object: string;
  readonly enabled: 'A' | 'R';
  readonly on_update: boolean;
  /** Of UPDATE OF; none for any. */
  readonly columns: readonly string[];
}

export const replicaTriggers: SideCheck = {
  name: 'replica-triggers',
  sides: ['blue'],
  run: async ({ session, plan, tables }) => {
    const moved = await tables();
    const { rows } = await session.query<ReplicaTrigger>(
      `SELECT t.tgrelid::bigint::float8 AS table, t.tgrelid::regclass || '.' || quote_ident(t.tgname) AS object,
              t.tgenabled AS enabled, t.tgtype & 16 <> 0 AS on_update,
              l.lanname::text AS language, CASE WHEN ${FOR_APPLIED} AND p.prosrc ~* '${WRITES}' THEN p.prosrc END AS text,
              ${FOR_APPLIED} AND t.tgtype & 2 <> 0 AND p.prosrc ~* '${ASSIGNS}' AND p.prosrc ~* '${EACH_TIME_ANOTHER}' AS assigns,
              ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr::int2[])) AS columns
         FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang
        WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled IN ('A', 'R') AND t.tgname NOT LIKE '\\_verdigris%'
          AND t.tgrelid = ANY ($1::oid[])
        ORDER BY 2`,
      [moved.map(({ oid }) => oid)],
    );
    const backfilled = await backfilledColumns(plan);
    const harmOf = await harms(session, plan, rows, new Set(moved.map(({ oid }) => oid)));
    return rows.map((trigger): Found => {
      const root = moved.find(({ oid }) => oid === trigger.table)?.root;
      const written = root === undefined ? undefined : backfilled.get(formatTableName(root));
      return written !== undefined && firesFor(trigger, written)
        ? firesForBackfill(trigger)
        : firesTwice(trigger, harmOf(trigger));
    });
  },
};

/**
 * The columns of blue that the backfill of each table writes. Of the copy nothing is left to be backfilled: there the
 * triggers are made when the rows are complete.
 */
async function backfilledColumns(plan: SideContext['plan']): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  if (plan.bootstrap.method === 'copy') return new Map();
  const { tables } = await planWork(plan);
  return new Map(
    tables
      .filter(({ derived }) => derived.some(({ up }) => up !== undefined))
      .map(({ table, derived }) => [formatTableName(table), new Set(derived.map(({ column }) => column))]),
  );
}

function firesFor({ on_update: onUpdate, columns }: ReplicaTrigger, written: ReadonlySet<string>): boolean {
  return onUpdate && (columns.length === 0 || columns.some((column) => written.has(column)));
}

function named({ enabled }: ReplicaTrigger): string {
  return `ENABLE ${enabled === 'A' ? 'ALWAYS' : 'REPLICA'}`;
}

/** What it writes on green would not be on blue, and rows that it makes there are in the way of those of the feed. */
function firesForBackfill(trigger: ReplicaTrigger): Found {
  return {
    severity: 'error',
    object: trigger.object,
    message: `the trigger is ${named(trigger)} and the plan backfills its table: on green it would fire for every row that is filled, which nobody has written on blue`,
    remedy:
      'ALTER TABLE ... ENABLE TRIGGER on blue (an ordinary trigger fires only where the application writes); or take bootstrap.method "copy", which leaves nothing to be backfilled',
  };
}

function firesTwice(trigger: ReplicaTrigger, harm: Harm | null): Found {
  if (harm !== null) return harmsApplied(trigger, harm);
  return {
    severity: 'warning',
    object: trigger.object,
    message: `the trigger is ${named(trigger)}: it also fires for rows that replication applies, so what it does is done on both sides`,
    remedy:
      'See that it may run twice; if not, ALTER TABLE ... ENABLE TRIGGER on blue (an ordinary trigger fires only where the application writes)',
  };
}

const HARMS: Readonly<Record<Harm, string>> = {
  writes:
    'for each row that replication applies on green it writes there what blue has written and sends as well: the same key twice stops the feed, another one is a row too many',
  'writes missing':
    'for each row that replication applies on green it writes a table that the plan leaves out: green has none of them, so the first row stops the feed',
  assigns:
    'it gives each row that replication applies on green values of its own (the time, a random or a next value), so those are not the rows of blue',
};

function harmsApplied(trigger: ReplicaTrigger, harm: Harm): Found {
  return {
    severity: 'error',
    object: trigger.object,
    message: `the trigger is ${named(trigger)}: ${HARMS[harm]}`,
    remedy:
      'ALTER TABLE ... ENABLE TRIGGER on blue until the run has ended (an ordinary trigger fires only where the application writes)',
  };
}

interface Rule {
  readonly table: number;
  readonly object: string;
  /** Whether it is one for UPDATE that even sessions fire which write as a replica. */
  readonly fires: boolean;
}

export const rules: SideCheck = {
  name: 'rules',
  sides: ['blue'],
  run: async ({ session, plan, tables }) => {
    const moved = await tables();
    const { rows } = await session.query<Rule>(
      `SELECT ev_class::bigint::float8 AS table, ev_class::regclass || '.' || quote_ident(rulename) AS object,
              ev_type = '2' AND ev_enabled IN ('A', 'R') AS fires
         FROM pg_rewrite WHERE rulename <> '_RETURN' AND ev_class = ANY ($1::oid[]) ORDER BY 2`,
      [moved.map(({ oid }) => oid)],
    );
    const backfilled = await backfilledColumns(plan);
    // The backfill writes leaves by their own names, which sets off none of their parents' rules.
    const isBackfilled = ({ table }: Rule): boolean =>
      moved.some(
        ({ oid, kind, root }) => oid === table && kind !== 'partitioned' && backfilled.has(formatTableName(root)),
      );
    const firing = rows.filter((rule) => rule.fires && isBackfilled(rule));
    const others = rows.filter((rule) => !firing.includes(rule));
    return [...firing.map(ruleFiresForBackfill), ...(others.length === 0 ? [] : [rulesSeeNothing(others)])];
  },
};

function ruleFiresForBackfill({ object }: Rule): Found {
  return {
    severity: 'error',
    object,
    message:
      'the rule is for UPDATE and ENABLE ALWAYS or REPLICA, and the plan backfills its table: the backfill on green would set it off, or be refused by PostgreSQL',
    remedy:
      'ALTER TABLE ... ENABLE RULE on blue (an ordinary rule fires only where the application writes); or take bootstrap.method "copy", which leaves nothing to be backfilled',
  };
}

function rulesSeeNothing(rules: readonly Rule[]): Found {
  return {
    severity: 'info',
    object: listed(rules.map(({ object }) => object)),
    message: 'these rules rewrite statements of the application; replication applies rows, and rules do not see them',
    remedy: 'Nothing: what a rule writes is replicated as rows',
  };
}

export const eventTriggers: SideCheck = {
  name: 'event-triggers',
  sides: BOTH_SIDES,
  run: async ({ session }) => {
    const { rows } = await session.query<{ name: string; function: string }>(
      `SELECT evtname AS name, evtfoid::regproc::text AS function FROM pg_event_trigger t
        WHERE evtenabled <> 'D' AND evtname !~ '^verdigris_'
          AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_event_trigger'::regclass AND e.objid = t.oid AND e.deptype = 'e')`,
    );
    return rows.map(({ name, function: called }): Found => ({
      severity: 'warning',
      object: name,
      message: `the event trigger calls ${called} for DDL, that of Verdigris included`,
      remedy:
        'See that it lets CREATE and ALTER in schema verdigris and on the moved tables pass, or disable it for the run',
    }));
  },
};

/** A dump has those of blue, the disabled ones too, and makes them after the rows. */
export const eventTriggerRights: PairCheck = {
  name: 'event-trigger-rights',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    const { rows } = await blue.session.query<{ name: string }>(
      `SELECT evtname AS name FROM pg_event_trigger t
        WHERE evtname !~ '^verdigris_'
          AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_event_trigger'::regclass AND e.objid = t.oid AND e.deptype = 'e')
        ORDER BY 1`,
    );
    if (rows.length === 0 || green.isSuperuser || (await mayMakeEventTriggers(green.session))) return [];
    return inPair('green', [
      {
        severity: 'error',
        object: listed(rows.map(({ name }) => name)),
        message:
          "blue has these event triggers, and green's user may not make any: the copy of the schema would fail after the rows",
        remedy:
          "Let green's connection log in as a superuser (on managed services: their own administrator role); or DROP EVENT TRIGGER on blue until the run has ended: a disabled one is copied, too",
      },
    ]);
  },
};

/** The role is looked at first, and the function is not there: nothing is made. Managed services let others make them, too. */
export async function mayMakeEventTriggers(session: Session): Promise<boolean> {
  try {
    await session.query(
      'CREATE EVENT TRIGGER verdigris_probe ON ddl_command_end EXECUTE FUNCTION pg_catalog.verdigris_is_not_there()',
    );
  } catch (error) {
    if (sqlState(error) === UNDEFINED_FUNCTION) return true;
    if (sqlState(error) === NO_RIGHT) return false;
    throw error;
  }
  throw new Error('an event trigger was made of a function that is not there');
}

/**
 * Of the event triggers of blue, which green gets: those that write rows and would fire for our DDL. There the rows are
 * others than blue's under the same keys, or nothing may be written at all.
 */
export const writingEventTriggers: PairCheck = {
  name: 'writing-event-triggers',
  run: async ({ blue, green }) => {
    const { rows } = await blue.session.query<{ name: string; event: string; ordinary: boolean }>(
      `SELECT t.evtname AS name, t.evtevent AS event, t.evtenabled = 'O' AS ordinary
         FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid
        WHERE t.evtenabled <> 'D' AND t.evtname !~ '^verdigris_' AND p.prosrc ~* '${WRITES}'
          AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_event_trigger'::regclass AND e.objid = t.oid AND e.deptype = 'e')
        ORDER BY 1`,
    );
    if (rows.length === 0) return [];
    const unsilenced = rows.filter(({ ordinary, event }) => !ordinary || event === 'login').map(({ name }) => name);
    const found: Found[] = unsilenced.length === 0 ? [] : [notSilenced(unsilenced)];
    const ordinary = rows.map(({ name }) => name).filter((name) => !unsilenced.includes(name));
    if (ordinary.length === 0) return inPair('blue', found);
    const rights = await Promise.all(
      [blue, green].map(async (side) => ({ ...(await maySilence(side)), side: side.side })),
    );
    const runsSql = green.plan.migrations.some((step) => 'sql' in step);
    return [
      ...inPair('blue', found),
      ...rights.flatMap(({ side, user, replica, off }) => {
        if (!replica) return inPair(side, [rightMissing(ordinary, 'session_replication_role', user)]);
        if (side === 'blue' || !runsSql || off) return [];
        return inPair(side, [
          green.version < 17 ? firesForSql(ordinary) : rightMissing(ordinary, 'event_triggers', user),
        ]);
      }),
    ];
  },
};

function inPair(side: Side, found: readonly Found[]): (Found & { readonly side: Side })[] {
  return found.map((one) => ({ ...one, side }));
}

async function maySilence({
  session,
  version,
}: SideContext): Promise<{ user: string; replica: boolean; off: boolean }> {
  if (version < 15) return { user: '', replica: true, off: true };
  return oneRow(
    session,
    `SELECT current_user AS user, has_parameter_privilege('session_replication_role', 'SET') AS replica,
            EXISTS (SELECT FROM pg_settings WHERE name = 'event_triggers' AND has_parameter_privilege(name, 'SET')) AS off`,
  );
}

function notSilenced(names: readonly string[]): Found {
  return {
    severity: 'error',
    object: listed(names),
    message:
      'these event triggers write rows, and fire in every session (ENABLE ALWAYS or REPLICA, or at a login): on the side that takes no writes they would fail, and on green make rows that blue has not',
    remedy: 'ALTER EVENT TRIGGER ... ENABLE on blue (those for DDL), or DISABLE, until the run has ended',
  };
}

function rightMissing(names: readonly string[], parameter: string, user: string): Found {
  return {
    severity: 'error',
    object: listed(names),
    message: `these event triggers write rows for DDL, and the user "${user}" may not keep them from firing for that of Verdigris`,
    remedy: `As a superuser: GRANT SET ON PARAMETER ${parameter} TO ${ident(user)}; or ALTER EVENT TRIGGER ... DISABLE on blue until the run has ended`,
  };
}

function firesForSql(names: readonly string[]): Found {
  return {
    severity: 'error',
    object: listed(names),
    message:
      'these event triggers write rows for DDL, that of the "sql" steps of the plan included: before PostgreSQL 17 nothing keeps them from firing for it',
    remedy: 'ALTER EVENT TRIGGER ... DISABLE on blue until the run has ended, or leave the "sql" steps out',
  };
}

export const rowLevelSecurity: SideCheck = {
  name: 'row-level-security',
  sides: ['blue'],
  run: async ({ session, isSuperuser, tables }) => {
    if (isSuperuser) return [];
    const { bypass } = await oneRow<{ bypass: boolean }>(
      session,
      'SELECT rolbypassrls AS bypass FROM pg_roles WHERE rolname = current_user',
    );
    if (bypass) return [];
    const { rows } = await session.query<{ oid: string; forced: boolean; owned: boolean }>(
      `SELECT c.oid::text, c.relforcerowsecurity AS forced, pg_has_role(c.relowner, 'USAGE') AS owned
         FROM pg_class c WHERE c.relrowsecurity AND c.oid = ANY ($1::oid[])`,
      [(await tables()).map(({ oid }) => oid)],
    );
    const named = new Map((await tables()).map((table) => [String(table.oid), formatTableName(table.name)]));
    const hidden = rows.filter(({ forced, owned }) => forced || !owned).map(({ oid }) => named.get(oid) ?? oid);
    if (hidden.length === 0) return [];
    return [
      {
        severity: 'error',
        object: listed(hidden),
        message: 'row level security applies to this user: rows that it does not see would be missing on green',
        remedy: 'ALTER ROLE ... BYPASSRLS for the user of the connection',
      },
    ];
  },
};

/**
 * On green everything is applied, read and compared by its user: where policies are forced, the owner's rights are not
 * enough. A user that passes by them applies all rows as itself then: a superuser lends the owners of tables its rights.
 */
export const forcedRowSecurity: PairCheck = {
  name: 'forced-row-security',
  run: async ({ blue, green }) => {
    const { bypass, user } = await oneRow<{ bypass: boolean; user: string }>(
      green.session,
      'SELECT rolbypassrls AS bypass, rolname::text AS user FROM pg_roles WHERE rolname = current_user',
    );
    if (bypass && !green.isSuperuser) return [];
    const moved = await blue.tables();
    const { rows } = await blue.session.query<{ oid: string }>(
      `SELECT oid::text FROM pg_class WHERE relrowsecurity AND relforcerowsecurity AND oid = ANY ($1::oid[])`,
      [moved.map(({ oid }) => oid)],
    );
    const forced = new Set(rows.map(({ oid }) => oid));
    if (forced.size === 0) return [];
    const object = listed(moved.filter(({ oid }) => forced.has(String(oid))).map(({ name }) => formatTableName(name)));
    if (green.isSuperuser) {
      // Of 15 there is no other way, whatever the tables are.
      if (green.version < 16) return [];
      return [
        {
          side: 'green',
          severity: 'warning',
          object,
          message: `these tables have FORCE ROW LEVEL SECURITY, which keeps replication from applying rows as their owner: it applies those of all tables as the superuser "${user}", CHECKs, domains and triggers of theirs included`,
          remedy:
            'Trust the owners of the tables with that; or connect as the role of docs/connections.md, with BYPASSRLS',
        },
      ];
    }
    const where = blue.plan.bootstrap.method === 'standby' ? 'on blue, whose roles green has' : 'of green';
    return [
      {
        side: 'green',
        severity: 'error',
        object,
        message:
          'these tables have FORCE ROW LEVEL SECURITY: once green has their policies, replication into them is refused, again and again',
        remedy: `As a superuser ${where}: ALTER ROLE ${ident(user)} BYPASSRLS; or ALTER TABLE ... NO FORCE ROW LEVEL SECURITY on blue`,
      },
    ];
  },
};

/** By which conditions PL/pgSQL catches the refusal. */
const SWALLOWED_BY = {
  25006: 'others|read_only_sql_transaction|invalid_transaction_state|25006|25000',
  57014: 'query_canceled|operator_intervention|57014|57000',
} as const;

/** A fence that is swallowed is no fence: the function would go on as if it had written. */
export const swallowedErrors: SideCheck = {
  name: 'swallowed-errors',
  sides: ['blue'],
  run: async ({ session, plan }) => {
    const { rows } = await session.query<{ object: string }>(
      `SELECT p.oid::regprocedure::text AS object
         FROM pg_proc p
         JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
         JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'verdigris')
          AND p.prosrc ~* $1
          AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
        ORDER BY 1`,
      [`\\mexception\\M.*\\mwhen\\M[^;]*\\m(${SWALLOWED_BY[plan.promote.refuseWith]})\\M`],
    );
    if (rows.length === 0) return [];
    return [
      {
        severity: 'warning',
        object: listed(rows.map(({ object }) => object)),
        message: `${rows.length} functions catch the error of a closed fence (${plan.promote.refuseWith}), as EXCEPTION WHEN OTHERS does of most: one that writes at the moment of the promotion would swallow the refusal, and its caller would believe that the row is stored`,
        remedy: `Let them catch named conditions only, or raise the error again after handling it, by RAISE without arguments${plan.promote.refuseWith === '25006' ? '; or have writes refused with what OTHERS does not catch: promote.refuseWith "57014", once all routers are of a version that knows it' : ''}`,
      },
    ];
  },
};
