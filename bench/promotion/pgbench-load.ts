import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { guard, release } from '../../src/embedded/guardian.js';
import { endProcess, waitForEnd } from '../../src/embedded/process-end.js';
import { OUTCOME, type LoadResult } from './load-messages.js';
import { ACCOUNTS, USERS } from './shop.js';

export interface PgbenchSettings {
  readonly program: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
  readonly clients: number;
  readonly perSecond: number;
  /** A folder for its journal; removed by whoever made it. */
  readonly folder: string;
}

/** pgbench as the application: it knows nothing of Verdigris, and a client that gets an error ends. */
export interface PgbenchLoad {
  finish(): Promise<LoadResult>;
  stop(): Promise<void>;
}

/** Numbers of one client's payments begin at its number times this. */
const NUMBERS_OF_CLIENT = 10_000_000;

/** The payment of shop.ts. Its number is that of the client and of the client's transaction, as in pgbench's log. */
const SCRIPT = `
\\set n :n + 1
\\set number :client_id * ${NUMBERS_OF_CLIENT} + :n
\\set user random(1, ${USERS})
\\set a random(1, ${ACCOUNTS - 1})
\\set b random(:a + 1, ${ACCOUNTS})
BEGIN;
INSERT INTO public.payments (number, user_id, amount, status) VALUES (:number, :user, 1, 'new') RETURNING id \\gset
UPDATE public.accounts SET balance = balance - 1 WHERE id = :a;
UPDATE public.accounts SET balance = balance + 1 WHERE id = :b;
UPDATE public.users SET payments = payments + 1 WHERE id = :user;
UPDATE public.payments SET status = 'booked' WHERE id = :id;
COMMIT;
`;

/** It runs until it is told to end; this only has it listen to SIGALRM, on which it ends its transactions first. */
const LONGEST_SECONDS = 7_200;

/** Starts it. Open loop: with --rate, a transaction's time counts from the moment in which it was due. */
export function startPgbench(settings: PgbenchSettings): PgbenchLoad {
  const folder = mkdtempSync(join(settings.folder, 'pgbench-'));
  writeFileSync(join(folder, 'script.sql'), SCRIPT);
  const child = spawn(
    settings.program,
    [
      ...['-h', '127.0.0.1', '-p', String(settings.port), '-U', settings.user, '-n', '-f', join(folder, 'script.sql')],
      ...['-c', String(settings.clients), '-j', '1', '-D', 'n=-1', '-T', String(LONGEST_SECONDS)],
      ...['-R', String(settings.perSecond), '-l', '--log-prefix', join(folder, 'log'), settings.database],
    ],
    {
      ...{ cwd: folder, detached: true, stdio: ['ignore', 'ignore', 'pipe'] },
      env: { ...process.env, PGPASSWORD: settings.password },
    },
  );
  if (child.pid !== undefined) guard({ pid: child.pid, signal: 'SIGTERM', graceMs: 2_000 });
  let complaints = '';
  child.on('error', (error) => (complaints += error.message));
  child.stderr?.on('data', (data: Buffer) => (complaints += data.toString()));
  return {
    finish: async () => {
      child.kill('SIGALRM');
      if (!(await waitForEnd(child, 60_000))) throw new Error('pgbench does not end');
      const logs = readdirSync(folder).filter((name) => name.startsWith('log'));
      return resultOf(
        logs.flatMap((name) => readFileSync(join(folder, name), 'utf8').split('\n')),
        complaints,
      );
    },
    stop: async () => {
      await endProcess(child, [
        { signal: 'SIGTERM', graceMs: 2_000 },
        { signal: 'SIGKILL', graceMs: 2_000 },
      ]);
      if (child.pid !== undefined) release(child.pid);
    },
  };
}

/**
 * Pure: pgbench's journal. A line is of an acknowledged transaction: client, its transaction, microseconds since it was
 * due, script, and when it ended. A client that got an error has no line of it, and ends.
 */
export function resultOf(lines: readonly string[], complaints: string): LoadResult {
  const transactions = lines
    .map((line) => line.trim().split(' ').map(Number))
    .flatMap(([client, transaction, micros, , seconds, rest]) => {
      if (client === undefined || transaction === undefined || micros === undefined) return [];
      if (seconds === undefined || rest === undefined || Number.isNaN(micros)) return [];
      const took = micros / 1_000;
      return [{ client, transaction, took, due: seconds * 1_000 + rest / 1_000 - took }];
    })
    .sort((one, other) => one.due - other.due);
  // Some versions count a client's transactions from 0, some from 1.
  const first = transactions.reduce((least, { transaction }) => Math.min(least, transaction), 1);
  const errors: Record<string, number> = {};
  for (const [, what = ''] of complaints.matchAll(/client \d+ (?:script \d+ )?(aborted[^\n]*)/g)) {
    errors[what] = (errors[what] ?? 0) + 1;
  }
  return {
    number: Float64Array.from(transactions, (one) => one.client * NUMBERS_OF_CLIENT + one.transaction - first),
    due: Float64Array.from(transactions, ({ due }) => due),
    took: Float64Array.from(transactions, ({ took }) => took),
    outcome: new Uint8Array(transactions.length).fill(OUTCOME.acknowledged),
    failedWithoutNumber: Object.values(errors).reduce((sum, times) => sum + times, 0),
    errors,
    retried: 0,
  };
}
