import { VerdigrisError } from '../../errors.js';
import { formatTableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import { closeSession, type Session } from '../session.js';
import { listed } from '../preflight/finding.js';
import { NO_RIGHT, sqlState } from '../sqlstate.js';
import { WITH_PARTITIONS } from './changed-table.js';
import type { StepContext } from './step-context.js';
import { TRIGGER_NAME } from './up-down-trigger.js';

/** A session for writes of our own, with the times that keep its locks from harming others. */
export interface InternalSession {
  readonly session: Session;
  /**
   * How long a statement may take: its statement_timeout. Whoever waits for one of its rows waits less than deadlock_timeout,
   * so PostgreSQL never looks for a circle in which the apply worker would be the victim: it is always we who give up.
   */
  readonly statementMs: number;
  /** Names of the plan's expressions on the table are resolved from now on; its triggers and rules are known to stay silent. */
  readonly enter: (table: TableInfo, searchPath: string) => Promise<void>;
}

const LOCK_TIMEOUT_MS = 300;
/** A worker that was frozen in mid-batch holds rows that the apply worker wants. */
const IDLE_TIMEOUT_MS = 3_000;

/**
 * Opens a session for writes of our own. The up/down trigger knows it by `verdigris.internal`. It writes as a replica:
 * the application's triggers have fired on blue already; here they would write a second audit row or a new updated_at.
 */
export async function openInternalSession(context: Pick<StepContext, 'connect'>): Promise<InternalSession> {
  const session = await context.connect('backfill');
  try {
    const { rows } = await session.query<{ ms: number }>(
      `SELECT setting::int AS ms FROM pg_settings WHERE name = 'deadlock_timeout'`,
    );
    const deadlockMs = rows[0]?.ms ?? 1_000;
    await session.query(SETTINGS, [
      String(Math.ceil(Math.min(LOCK_TIMEOUT_MS, deadlockMs * 0.3))),
      String(IDLE_TIMEOUT_MS),
    ]);
    const silent = await asReplica(session);
    return {
      session,
      statementMs: Math.ceil(deadlockMs * 0.8),
      enter: async (table, searchPath) => {
        const firing = await codeThatFires(session, table, silent ? ['A', 'R'] : ['O', 'A']);
        if (!silent && firing.length > 0) throw rightMissing(table, firing);
        const rules = firing.filter(({ kind }) => kind === 'rule');
        if (rules.length > 0) throw rulesFire(table, rules);
        await session.query(`SELECT set_config('search_path', $1, false)`, [searchPath]);
      },
    };
  } catch (error) {
    await closeSession(session);
    throw error;
  }
}

/*
 * Read committed, as all sessions of ours: a row that somebody changes while we wait for it is looked at again and gets
 * the value of its new content. Small batches along a key never gain by a scan of the whole table, which
 * missing statistics suggest, nor by compiled expressions, which cost more than a batch. Nor by a plan of its own for each
 * batch: there is only one way along the key.
 */
const SETTINGS = `
  SELECT set_config('verdigris.internal', 'on', false), set_config('verdigris.backfill', 'on', false),
         set_config('lock_timeout', $1, false), set_config('idle_in_transaction_session_timeout', $2, false),
         set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false),
         set_config('plan_cache_mode', 'force_generic_plan', false)`;

async function asReplica(session: Session): Promise<boolean> {
  try {
    await session.query(`SELECT set_config('session_replication_role', 'replica', false)`);
    return true;
  } catch (error) {
    if (sqlState(error) !== NO_RIGHT) throw error;
    return false;
  }
}

/** What of the application an UPDATE sets off. */
interface FiringCode {
  readonly kind: 'trigger' | 'rule';
  readonly name: string;
}

/** @param enabled as pg_trigger and pg_rewrite have it */
async function codeThatFires(session: Session, table: TableInfo, enabled: readonly string[]): Promise<FiringCode[]> {
  const { rows } = await session.query<FiringCode>(
    `WITH part AS (${WITH_PARTITIONS})
     SELECT 'trigger' AS kind, t.tgname::text AS name FROM part JOIN pg_trigger t ON t.tgrelid = part.relid
      WHERE NOT t.tgisinternal AND t.tgname <> $2 AND t.tgenabled = ANY ($3::"char"[]) AND t.tgtype & 16 <> 0
      UNION
     SELECT 'rule', r.rulename::text FROM part JOIN pg_rewrite r ON r.ev_class = part.relid
       -- A leaf is written by its own name, which sets off no rule of its parents.
       JOIN pg_class c ON c.oid = part.relid AND c.relkind = 'r'
      WHERE r.ev_type = '2' AND r.ev_enabled = ANY ($3::"char"[])
      ORDER BY 1, 2`,
    [qualified(table.name), TRIGGER_NAME, enabled],
  );
  return rows;
}

function rightMissing(table: TableInfo, firing: readonly FiringCode[]): VerdigrisError {
  return new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `table ${formatTableName(table.name)} has ${described(firing)} of the application, which the backfill must not set off, and the worker's role may not set session_replication_role`,
    nextStep: `as a superuser of green: GRANT SET ON PARAMETER session_replication_role TO the worker's role`,
  });
}

/** They would write elsewhere what the backfill writes; PostgreSQL refuses most of them in the statement of a batch. */
function rulesFire(table: TableInfo, rules: readonly FiringCode[]): VerdigrisError {
  return new VerdigrisError({
    type: 'BackfillFailed',
    message: `table ${formatTableName(table.name)} has ${described(rules)} ON UPDATE that is ENABLE ALWAYS or REPLICA: the backfill would set it off`,
    nextStep: 'ALTER TABLE ... ENABLE RULE on green, and on blue, then resume; or roll back',
  });
}

function described(firing: readonly FiringCode[]): string {
  return listed(firing.map(({ kind, name }) => `${kind} ${ident(name)}`));
}
