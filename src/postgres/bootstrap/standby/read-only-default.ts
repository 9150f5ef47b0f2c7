import { setTimeout as sleep } from 'node:timers/promises';
import type { TableName } from '../../../plan/table-name.js';
import { qualified } from '../../identifier.js';
import type { Session } from '../../session.js';

/*
 * A standby refuses writes; a moment after its promotion it takes them from everybody who was connected for reading, or
 * whose connection string looks for a server that is read-write. The fence can't stop them yet, since it would stop the
 * backfill as well. So green keeps default_transaction_read_only = on until it is fenced: what our own sessions and the
 * apply worker do is not concerned.
 */

const SETTING = 'default_transaction_read_only';

/** Whether the user of this session may change the server's default. */
export async function mayCloseToWriters(green: Session): Promise<boolean> {
  const { rows } = await green.query<{ allowed: boolean }>(
    `SELECT has_parameter_privilege('${SETTING}', 'ALTER SYSTEM')
            AND has_function_privilege('pg_reload_conf()', 'EXECUTE') AS allowed`,
  );
  return rows[0]?.allowed === true;
}

/**
 * Of these tables, those whose own triggers also fire for applied rows. They run in the apply worker, and a read-only
 * default would make one that writes fail: then green is better left open.
 */
export async function firesForAppliedRows(green: Session, tables: readonly TableName[]): Promise<string[]> {
  const { rows } = await green.query<{ name: string }>(
    `SELECT DISTINCT tgrelid::regclass::text AS name FROM pg_trigger
      WHERE tgrelid = ANY (SELECT to_regclass(name) FROM unnest($1::text[]) AS t (name))
        AND NOT tgisinternal AND tgenabled IN ('A', 'R') AND tgname NOT LIKE '\\_verdigris\\_%' ORDER BY 1`,
    [tables.map(qualified)],
  );
  return rows.map((row) => row.name);
}

/** Makes transactions of others read-only by default, from now on and in sessions that are open already. */
export async function closeToWriters(green: Session): Promise<void> {
  await setDefault(green, `ALTER SYSTEM SET ${SETTING} = 'on'`, 'on');
}

/** Takes that back. */
export async function openToWriters(green: Session): Promise<void> {
  await setDefault(green, `ALTER SYSTEM RESET ${SETTING}`, 'off');
}

/** ALTER SYSTEM writes a file; the server reads it a moment after it was told to. */
async function setDefault(green: Session, statement: string, wanted: 'on' | 'off'): Promise<void> {
  if ((await readDefault(green)) === wanted) return;
  await green.query(statement);
  await green.query('SELECT pg_reload_conf()');
  for (let look = 0; look < 250 && (await readDefault(green)) !== wanted; look++) await sleep(20);
}

/** What a session gets that does not ask for anything else: our own do. */
async function readDefault(green: Session): Promise<string> {
  const { rows } = await green.query<{ value: string }>(
    `SELECT reset_val AS value FROM pg_settings WHERE name = '${SETTING}'`,
  );
  return rows[0]?.value ?? 'off';
}
