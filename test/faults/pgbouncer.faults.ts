import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { findPgbench } from '../support/pgbench.js';
import { DEATHS, killWorkerAt, stopWorkerAt } from '../support/pooled-death.js';
import { PooledPair } from '../support/pooled-pair.js';
import { carryOut } from '../support/promotion-steps.js';

const missing = findPgBouncer() === undefined ? 'pgbouncer' : findPgbench() === undefined ? 'pgbench' : undefined;
if (missing !== undefined)
  process.stdout.write(`SKIPPED workers that die behind PgBouncer: ${missing} is not installed\n`);

describe.skipIf(missing !== undefined)('a worker that moves the writes behind two PgBouncers under load', () => {
  let pair: PooledPair;

  beforeAll(async () => {
    pair = await PooledPair.create('pooled deaths');
  });

  afterAll(async () => pair.close());

  it.each(DEATHS)('is killed once $name: no transaction fails', { timeout: 120_000 }, async (death) => {
    const before = await pair.written();
    const load = pair.load(50);
    expect((await killWorkerAt(pair, death)).outcome).toBe('killed there');
    for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move('blue'));
    await pair.expectSettled('green');
    for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move('green'));
    await pair.expectSettled('blue');
    const { failed, transactions } = await load.stop();
    expect(failed).toBe(0);
    await pair.expectWritten(before + transactions);
  });

  it.each(DEATHS)(
    'is frozen once $name, and wakes up when all is over: it changes nothing',
    { timeout: 120_000 },
    async (death) => {
      const before = await pair.written();
      const load = pair.load(50);
      const late = await stopWorkerAt(pair, death);
      expect(late.outcome).toBe('stopped there');
      late.actor.freeze();
      for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move('blue'));
      await pair.expectSettled('green');
      for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move('green'));
      late.release();
      late.actor.thaw();
      await late.ended;
      await pair.expectSettled('blue');
      await late.close();
      const { failed, transactions } = await load.stop();
      expect(failed).toBe(0);
      await pair.expectWritten(before + transactions);
    },
  );
});
