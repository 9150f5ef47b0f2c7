import { VerdigrisError } from '../../../errors.js';
import type { StandbyRun } from './standby-run.js';

/**
 * A slot sends what commits after its start. Were green's position before that, the transactions in between would reach
 * green neither way, without any error: so it is looked at before the promotion and after it.
 *
 * @throws VerdigrisError ReplicationBroken
 */
export async function refuseLateSlots(
  { blue, streams }: Pick<StandbyRun, 'blue' | 'streams'>,
  position: string,
): Promise<void> {
  const { rows } = await blue.query<{ name: string; late: boolean | null }>(
    `SELECT name, s.confirmed_flush_lsn > $2::pg_lsn OR s.wal_status = 'lost' AS late
       FROM unnest($1::text[]) name
       LEFT JOIN pg_replication_slots s ON s.slot_name = name AND s.database = current_database()`,
    [streams, position],
  );
  const wrong = rows.filter(({ late }) => late !== false);
  if (wrong.length === 0) return;
  throw new VerdigrisError({
    type: 'ReplicationBroken',
    message: `blue can't send green what it lacks: ${wrong.map(({ name, late }) => `the slot ${name} ${late === null ? 'is gone' : 'begins too late or has lost its WAL'}`).join(', ')}`,
    nextStep:
      'roll back; make green a standby of blue again (pg_basebackup, or pg_rewind once it has been promoted), and start again',
  });
}
