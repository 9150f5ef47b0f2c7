import type { Session } from './session.js';

/** What the servers of sessions have said: it stays the same for as long as a session lasts. */
const known = new WeakMap<Session, string | null>();

/**
 * A server's `system_identifier`: made by initdb, and the same for every physical copy of the cluster. Null where the role may
 * not ask for it, which is found out by a statement of its own: PostgreSQL wants the right to execute a function before it
 * knows whether the function is reached, so that no CASE around it helps.
 */
export async function systemIdentifier(session: Session): Promise<string | null> {
  const told = known.get(session);
  if (told !== undefined) return told;
  const { rows } = await session.query<{ may: boolean }>(
    `SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') AS may`,
  );
  const system = rows[0]?.may === true ? await ask(session) : null;
  known.set(session, system);
  return system;
}

async function ask(session: Session): Promise<string | null> {
  const { rows } = await session.query<{ system: string }>(
    'SELECT system_identifier::text AS system FROM pg_catalog.pg_control_system()',
  );
  return rows[0]?.system ?? null;
}
