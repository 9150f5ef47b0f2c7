import { firesForAppliedRows, mayCloseToWriters } from '../bootstrap/standby/read-only-default.js';
import { readIdentity, readReplay } from '../bootstrap/standby/recovery.js';
import { ident } from '../identifier.js';
import { oneRow, type BootstrapMethod, type Found, type PairCheck } from './check.js';
import { listed } from './finding.js';
import { ownersRights } from './standby-rights.js';

/** Checks of a physical standby that is to become green. */
export const STANDBY: readonly BootstrapMethod[] = ['standby'];

const MAKE_ONE =
  'Make green a physical standby of blue: pg_basebackup -R -X stream -C -S <slot>, then start it; or set another "bootstrap.method"';

/** Whether green is a standby of this blue, for the same database. */
export const standbyOrigin: PairCheck = {
  name: 'standby-origin',
  methods: STANDBY,
  run: async ({ blue, green }) => {
    const [source, copy] = [await readIdentity(blue.session), await readIdentity(green.session)];
    const error = (object: string, message: string, remedy = MAKE_ONE) => [
      { side: 'green' as const, severity: 'error' as const, object, message, remedy },
    ];
    if (source.system !== copy.system) {
      return error(
        'system_identifier',
        `green is no copy of blue: the clusters were made apart (system identifiers ${source.system} and ${copy.system})`,
      );
    }
    if (!copy.inRecovery) {
      return error(
        'pg_is_in_recovery()',
        'green is not a standby: it has been promoted, or was never one, and may have rows of its own',
      );
    }
    if (source.database !== copy.database) {
      return error(
        copy.database,
        `green's connection leads to the database "${copy.database}", and blue's to "${source.database}": a physical copy has the same databases by the same names`,
        `Let green's connection lead to "${source.database}"`,
      );
    }
    if (green.version !== blue.version) {
      return error(`PostgreSQL ${green.version}`, `green is PostgreSQL ${green.version} and blue is ${blue.version}`);
    }
    return [];
  },
};

/** Above this a promotion would have to wait long; above the other something is wrong. */
const FAR_BEHIND_BYTES = 64 * 2 ** 20;
const TOO_FAR_BEHIND_BYTES = 2 ** 30;

/** Whether the standby streams, and is close behind. */
export const standbyReplay: PairCheck = {
  name: 'standby-replay',
  methods: STANDBY,
  run: async ({ blue, green }) => {
    if (!(await readIdentity(green.session)).inRecovery) return [];
    const { position } = await oneRow<{ position: string }>(
      blue.session,
      'SELECT pg_current_wal_flush_lsn()::text AS position',
    );
    const { behindBytes, streaming, paused } = await readReplay(green.session, position);
    const { delay } = await oneRow<{ delay: string }>(
      green.session,
      `SELECT current_setting('recovery_min_apply_delay') AS delay`,
    );
    const found: Found[] = [];
    if (!streaming) {
      found.push({
        severity: 'error',
        object: 'pg_stat_wal_receiver',
        message: 'green does not stream from blue: it would never reach the start of the slots that are made on blue',
        remedy: "See primary_conninfo and the log of green's server",
      });
    }
    if (paused) {
      found.push({
        severity: 'error',
        object: 'pg_is_wal_replay_paused()',
        message: 'green has paused its replay',
        remedy: 'On green: SELECT pg_wal_replay_resume()',
      });
    }
    if (delay !== '0') {
      found.push({
        severity: 'warning',
        object: 'recovery_min_apply_delay',
        message: `green replays ${delay} late: the run waits for so long before the promotion`,
        remedy: 'ALTER SYSTEM RESET recovery_min_apply_delay on green, and reload',
      });
    }
    if (streaming && !paused && behindBytes > FAR_BEHIND_BYTES) {
      found.push({
        severity: behindBytes > TOO_FAR_BEHIND_BYTES ? 'error' : 'warning',
        object: 'pg_last_wal_replay_lsn()',
        message: `green is ${Math.round(behindBytes / 2 ** 20)} MB of WAL behind blue`,
        remedy: 'Wait until it has caught up; find out why, if it does not',
      });
    }
    return found.map((finding) => ({ side: 'green' as const, ...finding }));
  },
};

/** What only a superuser may do unless it is granted. */
const FUNCTIONS: readonly (readonly [signature: string, why: string])[] = [
  ['pg_promote(boolean, integer)', 'to promote green'],
  ['pg_read_file(text, bigint, bigint, boolean)', 'to read where green left the WAL of blue'],
  ['pg_replication_origin_advance(text, pg_lsn)', 'to let green follow blue from there'],
];

export const standbyPrivileges: PairCheck = {
  name: 'standby-privileges',
  methods: STANDBY,
  run: async ({ blue, green }) => {
    const found: Found[] = [];
    const { user, subscribes } = await oneRow<{ user: string; subscribes: boolean }>(
      green.session,
      `SELECT current_user AS user,
              coalesce((SELECT pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = 'pg_create_subscription'), false) AS subscribes`,
    );
    for (const [signature, why] of green.isSuperuser ? [] : FUNCTIONS) {
      const { allowed } = await oneRow<{ allowed: boolean }>(
        green.session,
        `SELECT has_function_privilege($1, 'EXECUTE') AS allowed`,
        [signature],
      );
      if (allowed) continue;
      found.push({
        severity: 'error',
        object: signature,
        message: `green's user "${user}" may not call ${signature}, ${why}`,
        remedy: `As a superuser, on blue, whose grants green has: GRANT EXECUTE ON FUNCTION pg_catalog.${signature} TO ${ident(user)}`,
      });
    }
    if (!green.isSuperuser && !subscribes) {
      found.push({
        severity: 'error',
        object: 'CREATE SUBSCRIPTION',
        message: `green's user "${user}" may not make subscriptions`,
        remedy:
          green.version >= 16
            ? `On blue, whose roles green has: GRANT pg_create_subscription TO ${ident(user)}`
            : 'Before PostgreSQL 16 only a superuser may',
      });
    }
    found.push(...(await ownersRights({ blue, green })));
    const firing = await firesForAppliedRows(
      green.session,
      (await blue.tables()).map((table) => table.name),
    );
    if (!(await mayCloseToWriters(green.session)) || firing.length > 0) {
      found.push({
        severity: 'warning',
        object: 'default_transaction_read_only',
        message:
          firing.length > 0
            ? `triggers of ${listed(firing)} also fire for rows that arrive by replication, so green is not made read-only by default between its promotion and the fence`
            : `green's user "${user}" may not make green read-only by default between its promotion and the fence`,
        remedy:
          'See that nobody writes to green from its promotion on: readers that are connected, and connection strings that look for a server that is read-write',
      });
    }
    return found.map((finding) => ({ side: 'green' as const, ...finding }));
  },
};
