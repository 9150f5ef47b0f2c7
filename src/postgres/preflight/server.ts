import { connectionVariable, type Database } from '../session.js';
import { BOTH_SIDES, oneRow, type Found, type SideCheck, type SideContext } from './check.js';

/** Checks of a server's version, role and settings. */

/** pg_stat_subscription_stats, column lists and the rest that Verdigris works with came with 15. */
export const OLDEST = 15;

export const serverVersion: SideCheck = {
  name: 'server-version',
  sides: BOTH_SIDES,
  run: async ({ version }) =>
    version >= OLDEST
      ? []
      : [
          {
            severity: 'error',
            object: `PostgreSQL ${version}`,
            message: `the server is PostgreSQL ${version}; logical replication in both directions needs ${OLDEST} or later`,
            remedy: `Upgrade the server to ${OLDEST} or later`,
          },
        ],
};

export const connectionParameters: SideCheck = {
  name: 'connection-parameters',
  sides: BOTH_SIDES,
  run: ({ database }) => Promise.resolve(ofIgnoredParameters(database)),
};

/** Needs no session: where none can be opened, such a parameter (`service`, `sslmod`) may be why. */
export function ofIgnoredParameters({ connection, ignoredParameters = [] }: Database): Found[] {
  if (ignoredParameters.length === 0) return [];
  const variable = `VERDIGRIS_CONNECTION_${connectionVariable(connection)}`;
  return [
    {
      severity: 'warning',
      object: connection,
      message: `the worker makes nothing of these parameters of ${variable}: ${ignoredParameters.join(', ')}`,
      remedy: `Take them out; what the other server needs of them goes into ${variable}_PEER, what the user's sessions need into ALTER ROLE ... SET`,
    },
  ];
}

export const inRecovery: SideCheck = {
  name: 'in-recovery',
  sides: BOTH_SIDES,
  run: async ({ session, side, plan }) => {
    // What the standby must be like is asked by checks of its own.
    if (side === 'green' && plan.bootstrap.method === 'standby') return [];
    const { standby } = await oneRow<{ standby: boolean }>(session, 'SELECT pg_is_in_recovery() AS standby');
    if (!standby) return [];
    return [
      {
        severity: 'error',
        object: 'pg_is_in_recovery()',
        message: 'the server is a standby: it takes no writes',
        remedy:
          side === 'green'
            ? 'Give the connection of a primary; or, if this is a physical standby of blue that may become green, set "bootstrap": {"method": "standby"}'
            : 'Give the connection of the primary',
      },
    ];
  },
};

export const walLevel: SideCheck = {
  name: 'wal-level',
  sides: BOTH_SIDES,
  run: async ({ session, side }) => {
    const { level } = await oneRow<{ level: string }>(session, `SELECT current_setting('wal_level') AS level`);
    if (level === 'logical') return [];
    const why =
      side === 'blue' ? 'green is filled from its WAL' : 'after the promotion blue is kept current from its WAL';
    return [
      {
        severity: 'error',
        object: 'wal_level',
        message: `wal_level is ${level}; it must be logical, since ${why}`,
        remedy: `ALTER SYSTEM SET wal_level = 'logical', then restart the server. On a managed service by its own setting, and a restart: Amazon RDS rds.logical_replication = 1, Cloud SQL cloudsql.logical_decoding = on, Azure the server parameter wal_level`,
      },
    ];
  },
};

interface Setting {
  readonly name: string;
  /** What a new session of the application gets. */
  readonly value: string;
}

/** reset_val, not the current value: our own sessions set some of these. */
async function readSettings(context: SideContext, names: readonly string[]): Promise<Map<string, string>> {
  const { rows } = await context.session.query<Setting>(
    `SELECT name, coalesce(reset_val, '') AS value FROM pg_settings WHERE name = ANY ($1)`,
    [names],
  );
  return new Map(rows.map(({ name, value }) => [name, value]));
}

export const readOnlyByDefault: SideCheck = {
  name: 'read-only-by-default',
  sides: BOTH_SIDES,
  run: async (context) => {
    const settings = await readSettings(context, ['default_transaction_read_only']);
    if (settings.get('default_transaction_read_only') !== 'on') return [];
    return [
      {
        severity: 'error',
        object: 'default_transaction_read_only',
        message: 'transactions are read-only by default: replication and the application could not write here',
        remedy:
          'Set default_transaction_read_only = off for the server, the database and the role. Where a managed service has made it so because its storage is nearly full (Azure: from 95 % on), give it storage first: the run fills it further',
      },
    ];
  },
};

export const walRetention: SideCheck = {
  name: 'wal-retention',
  sides: BOTH_SIDES,
  run: async (context) => {
    const settings = await readSettings(context, ['max_slot_wal_keep_size', 'idle_replication_slot_timeout']);
    const keep = settings.get('max_slot_wal_keep_size') ?? '-1';
    const idle = settings.get('idle_replication_slot_timeout') ?? '0';
    const isCopied = context.side === 'blue' && context.plan.bootstrap.method === 'copy';
    const found: Found[] = [];
    if (keep !== '-1') {
      found.push({
        severity: 'warning',
        object: 'max_slot_wal_keep_size',
        message: `the server invalidates a slot that holds back more than ${keep} MB of WAL: the run would have to start again`,
        remedy:
          'Raise it above replicate.maxRetainedWal of the plan, which gives the run up in good order, or set it to -1',
      });
    }
    if (idle !== '0') {
      found.push({
        severity: 'warning',
        object: 'idle_replication_slot_timeout',
        message: `the server invalidates a slot that is not used for ${idle} s: ${
          isCopied
            ? 'those of the copy are not read before green follows, so a copy that takes longer, with its index builds, is lost'
            : 'a pause of the run could lose it'
        }`,
        remedy: 'Set idle_replication_slot_timeout = 0 until the migration has ended',
      });
    }
    return found;
  },
};

export const walDisk: SideCheck = {
  name: 'wal-disk',
  sides: BOTH_SIDES,
  run: async ({ session, plan, side }) => {
    const { allowed } = await oneRow<{ allowed: boolean }>(
      session,
      `SELECT has_function_privilege('pg_ls_waldir()', 'EXECUTE') AS allowed`,
    );
    const size = allowed
      ? (
          await oneRow<{ size: string }>(
            session,
            'SELECT pg_size_pretty(coalesce(sum(size), 0)) AS size FROM pg_ls_waldir()',
          )
        ).size
      : undefined;
    const when = side === 'blue' ? 'while green is filled and follows' : 'while blue follows after the promotion';
    return [
      {
        severity: 'warning',
        object: 'pg_wal',
        message:
          `${when}, this server keeps up to ${plan.replicate.maxRetainedWal} of WAL for the other one` +
          `${size === undefined ? '' : ` (pg_wal holds ${size} now)`}; SQL can't see how much disk is free`,
        remedy: `See that more than ${plan.replicate.maxRetainedWal} is free where pg_wal is, or lower replicate.maxRetainedWal`,
      },
    ];
  },
};

export const asynchronousCommit: SideCheck = {
  name: 'asynchronous-commit',
  sides: BOTH_SIDES,
  run: async (context) => {
    const settings = await readSettings(context, ['synchronous_commit']);
    if (settings.get('synchronous_commit') !== 'off') return [];
    return [
      {
        severity: 'info',
        object: 'synchronous_commit',
        message:
          "synchronous_commit is off: a crash of the server loses the last acknowledged commits of the application, with or without a migration. Verdigris' own sessions use on",
        remedy: 'Nothing, if that is known; reads of users who have just written stay on blue',
      },
    ];
  },
};
