import { USER_SCHEMA } from '../catalog.js';
import { notExcluded } from '../schema-copy/excluded-relations.js';
import { NEW_GREEN, oneRow, type PairCheck, type SideContext } from './check.js';

/**
 * Green's tables are made in one transaction, which holds a lock on each, on its TOAST table and that one's index, and on
 * each sequence and view until it is over.
 */
export const schemaLocks: PairCheck = {
  name: 'schema-locks',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    const needed = await locksOfSchema(blue);
    const { each, processes } = await lockRoom(green);
    if (!isClearlyTooMany(needed, each * processes)) return [];
    return [
      {
        side: 'green',
        severity: 'warning',
        object: 'max_locks_per_transaction',
        message: `the copy of the schema takes about ${needed} locks in one transaction, and green has room for about ${each * processes} (max_locks_per_transaction is ${each}): it may end with "out of shared memory" (53200), and is tried again until there is more`,
        remedy: `Set max_locks_per_transaction to ${Math.ceil(needed / processes)} or more on green, and restart the server`,
      },
    ];
  },
};

/**
 * The room that the settings name is not all there is: a server keeps memory beside it, which the table of locks may take
 * when it is full. An idle PostgreSQL 15 or 18 took 1.6 times the room with 64 or 256 for each, and more with 10; the other
 * sessions of green need some.
 *
 * @param room max_locks_per_transaction for each process that may hold locks
 */
export function isClearlyTooMany(needed: number, room: number): boolean {
  return needed > 1.5 * room;
}

async function locksOfSchema({ session, excluded }: SideContext): Promise<number> {
  const { locks } = await oneRow<{ locks: number }>(
    session,
    `SELECT coalesce(sum(CASE WHEN c.reltoastrelid <> 0 THEN 3 ELSE 1 END), 0)::int AS locks
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p', 'f', 'S', 'v', 'm') AND c.relpersistence <> 't' AND ${USER_SCHEMA}
        AND ${notExcluded('$1')}`,
    [JSON.stringify(await excluded())],
  );
  return locks;
}

/** Every process that may hold locks, prepared transactions too. autovacuum_worker_slots is known since 18. */
async function lockRoom({ session }: SideContext): Promise<{ each: number; processes: number }> {
  return oneRow<{ each: number; processes: number }>(
    session,
    `SELECT current_setting('max_locks_per_transaction')::int AS each,
            current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int
              + coalesce(current_setting('autovacuum_worker_slots', true), current_setting('autovacuum_max_workers'))::int
              + current_setting('max_worker_processes')::int + current_setting('max_wal_senders')::int AS processes`,
  );
}
