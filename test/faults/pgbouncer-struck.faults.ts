import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer, type EmbeddedPgBouncer } from '../../src/embedded/pgbouncer.js';
import { recordOutcome } from '../support/outcome-table.js';
import { findPgbench } from '../support/pgbench.js';
import { DEATHS, stopWorkerAt, type Death } from '../support/pooled-death.js';
import { PGBENCH_CLIENTS, PooledPair } from '../support/pooled-pair.js';
import { carryOut } from '../support/promotion-steps.js';

/*
 * One of two PgBouncers is killed with SIGKILL and started again, or frozen with SIGSTOP for a while, exactly where the
 * worker that moves the writes is at a step. Clients of the other one notice nothing; those of the struck one lose their
 * connections when it dies, and never a write that they were told is done.
 */

const missing = findPgBouncer() === undefined ? 'pgbouncer' : findPgbench() === undefined ? 'pgbench' : undefined;
if (missing !== undefined) process.stdout.write(`SKIPPED a PgBouncer that is struck: ${missing} is not installed\n`);

const RATE = 50;
/** Longer than any step of a move may take: the worker gives it up, or tries until it answers. */
const FROZEN_MS = 4_000;
const DEAD_MS = 500;

describe.skipIf(missing !== undefined)('one of two PgBouncers, under load', () => {
  let pair: PooledPair;

  beforeAll(async () => {
    pair = await PooledPair.create('pooled struck');
  });

  afterEach(({ task }) => {
    const outcome = task.result?.state === 'fail' ? 'wrong' : 'moved there and back';
    recordOutcome({ fault: 'PgBouncer struck', point: task.name, outcome, seconds: 0 });
  });

  afterAll(async () => pair.close());

  const struck = (): EmbeddedPgBouncer => {
    const [pooler] = pair.poolers;
    if (pooler === undefined) throw new Error('there is no PgBouncer');
    return pooler;
  };

  /** A worker comes to the point, the PgBouncer is struck there, and whoever is there then brings the move to its end. */
  async function moveWhile(death: Death, strike: () => Promise<void>): Promise<void> {
    const worker = await stopWorkerAt(pair, death);
    try {
      expect(worker.outcome).toBe('stopped there');
      const striking = strike();
      worker.release();
      await striking;
      await worker.ended;
    } finally {
      await worker.close();
    }
    for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move('blue'));
    await pair.expectSettled('green');
    for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move('green'));
    await pair.expectSettled('blue');
  }

  it.each(DEATHS)(
    'is killed once $name, and starts again: its clients lose no write, the others notice nothing',
    { timeout: 120_000 },
    async (death) => {
      const before = await pair.written();
      const others = pair.load(RATE, [1]);
      const clients = pair.pgbench(0, RATE);
      await sleep(300);
      await moveWhile(death, async () => {
        struck().kill('SIGKILL');
        await sleep(DEAD_MS);
        await struck().restart();
      });
      const told = await clients.result();
      const { failed, transactions } = await others.stop();
      expect(failed).toBe(0);
      expect(told.transactions).toBeGreaterThan(0);
      // Each of its clients may have had one on its way.
      await pair.expectWritten(before + transactions + told.transactions, PGBENCH_CLIENTS);
    },
  );

  it.each(DEATHS)('is frozen for a while once $name: no transaction fails', { timeout: 120_000 }, async (death) => {
    const before = await pair.written();
    const load = pair.load(RATE);
    await moveWhile(death, async () => {
      struck().kill('SIGSTOP');
      await sleep(FROZEN_MS);
      struck().kill('SIGCONT');
    });
    const { failed, transactions } = await load.stop();
    expect(failed).toBe(0);
    await pair.expectWritten(before + transactions);
  });
});
