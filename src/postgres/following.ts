import type { Session } from './session.js';

/** Who reads each of these slots now: the process of the publisher that sends to it, by the slot's name. */
export async function readReaders(session: Session, names: readonly string[]): Promise<ReadonlyMap<string, number>> {
  const { rows } = await session.query<{ name: string; pid: number }>(
    `SELECT slot_name::text AS name, active_pid AS pid FROM pg_replication_slots
      WHERE slot_name = ANY ($1::name[]) AND database = current_database() AND active_pid IS NOT NULL`,
    [names],
  );
  return new Map(rows.map(({ name, pid }) => [name, pid]));
}

/** Those of these subscriptions that are to follow: the others are not made yet, or are off on purpose. */
export async function readEnabled(session: Session, names: readonly string[]): Promise<string[]> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT subname::text AS name FROM pg_subscription
      WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND subname = ANY ($1::name[]) AND subenabled
      ORDER BY 1`,
    [names],
  );
  return rows.map(({ name }) => name);
}
