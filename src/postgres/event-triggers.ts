import type { Session } from './session.js';

/*
 * Event triggers of the application are for its own DDL: one that writes what was done into a table would write on a side
 * that takes no writes, or rows that the other side has under the same keys. They fire in an ordinary session only, so
 * DDL of ours is done as a replica, where the role may. Ours, which watch blue, are ENABLE ALWAYS and know our sessions.
 *
 * Only around DDL: rows that are written as a replica pass triggers and foreign keys.
 */

/** An expression that makes a session a replica, if its role may; null if not. */
function asReplica(local: boolean): string {
  return `(SELECT set_config('session_replication_role', 'replica', ${String(local)})
            WHERE has_parameter_privilege('session_replication_role', 'SET'))`;
}

/** For a transaction that does DDL alone. */
export const SILENCE_EVENT_TRIGGERS = `SELECT ${asReplica(true)}`;

/** The same for a session, which is given back what it was by `restoreEventTriggers`. */
export async function silenceEventTriggers(session: Session): Promise<string> {
  const { rows } = await session.query<{ before: string }>(
    `SELECT current_setting('session_replication_role') AS before, ${asReplica(false)}`,
  );
  return rows[0]?.before ?? 'origin';
}

export async function restoreEventTriggers(session: Session, before: string): Promise<void> {
  await session.query(
    `SELECT set_config('session_replication_role', $1, false)
      WHERE current_setting('session_replication_role') <> $1`,
    [before],
  );
}

/** Does DDL, and nothing else, without the application's event triggers. */
export async function withoutEventTriggers<T>(session: Session, work: () => Promise<T>): Promise<T> {
  const before = await silenceEventTriggers(session);
  try {
    return await work();
  } finally {
    await restoreEventTriggers(session, before).catch(() => undefined);
  }
}

/**
 * The same for SQL that may write rows, too, whose triggers must fire: only PostgreSQL 17 and later can do that, for a role
 * that may set event_triggers.
 */
export async function withoutEventTriggersButOthers<T>(session: Session, work: () => Promise<T>): Promise<T> {
  const set = (value: string): Promise<unknown> =>
    session.query(
      `SELECT set_config(name, $1, false) FROM pg_settings
        WHERE name = 'event_triggers' AND has_parameter_privilege(name, 'SET')`,
      [value],
    );
  await set('off');
  try {
    return await work();
  } finally {
    await set('on').catch(() => undefined);
  }
}
