import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';

/** Whether a session of that name waits for an advisory lock: one row then. */
export function isWaitingForLock(session: string): string {
  return `SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = '${session}' AND wait_event = 'advisory'`;
}

/** Until a query finds a row. */
export async function untilRow(client: pg.Client, sql: string): Promise<void> {
  for (let look = 0; look < 1_000; look++) {
    if ((await client.query(sql)).rowCount !== 0) return;
    await sleep(10);
  }
  throw new Error(`not so after 10 s: ${sql}`);
}
