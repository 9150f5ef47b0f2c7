import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { PauseTurns } from '../support/pause-turns.js';
import { findPgbench } from '../support/pgbench.js';
import { PooledPair } from '../support/pooled-pair.js';

const missing = findPgBouncer() === undefined ? 'pgbouncer' : findPgbench() === undefined ? 'pgbench' : undefined;
if (missing !== undefined) process.stdout.write(`SKIPPED turns at PgBouncer: ${missing} is not installed\n`);

describe.skipIf(missing !== undefined)('two workers that pause one PgBouncer in one epoch', () => {
  let turns: PauseTurns;
  let pair: PooledPair;

  beforeAll(async () => {
    pair = await PooledPair.create('pooled turns', { poolers: 1, pauseTimeoutMs: 5_000 });
    turns = new PauseTurns(pair);
  });

  afterAll(async () => pair.close());

  afterEach(() => turns.settle());

  it('one that was frozen when its PAUSE had been answered leaves the pause of the other one alone', async () => {
    const late = turns.worker();
    expect(await turns.pause(late)).toBeUndefined();
    const other = await turns.takeOver();
    expect(await late.release()).toEqual([]);
    expect(await turns.isPaused()).toBe(true);
    expect(await other.release()).toEqual([]);
    await pair.expectSettled('blue');
  });
});
