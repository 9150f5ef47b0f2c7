import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ActivityDependencies } from '../../activities/context.js';
import { replicateActivities } from '../../activities/replicate.js';
import { standbyActivities } from '../../activities/standby.js';
import { watchSchemaActivities } from '../../activities/watch-schema.js';
import { planSchema } from '../../src/plan/schema.js';
import type { StandbyState } from '../../src/postgres/standby.js';
import { carryOut } from '../support/promotion-steps.js';
import { CrashPair } from './mistakes/crash-pair.js';

/* A frozen server still takes what is sent to it, and never answers. */

const MIGRATION = 'standby-frozen';

describe('a blue that is frozen in the standby window', () => {
  let pair: CrashPair;
  let dependencies: ActivityDependencies;
  const ref = {
    plan: planSchema.parse({
      name: MIGRATION,
      blue: { connection: 'b' },
      green: { connection: 'g' },
      replicate: { maxRetainedWal: '20MB' },
    }),
    runId: 'run',
  };

  beforeAll(async () => {
    pair = await CrashPair.start(MIGRATION);
    for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move);
    const uri = (side: 'blue' | 'green'): string =>
      `postgres://postgres:${pair.servers[side].password}@127.0.0.1:${pair.servers[side].port}/postgres`;
    dependencies = {
      environment: { VERDIGRIS_CONNECTION_B: uri('blue'), VERDIGRIS_CONNECTION_G: uri('green') },
      redact: (text) => text,
    };
  });

  afterAll(async () => {
    pair.servers.blue.kill('SIGCONT', 'all');
    await pair.stop();
  });

  function watch(known: string): { seen: Promise<StandbyState>; context: MockActivityEnvironment } {
    const context = new MockActivityEnvironment();
    return { context, seen: context.run(standbyActivities(dependencies).watchStandby, ref, known) };
  }

  /** Some MB of WAL on green. */
  const write = (mb: number): Promise<unknown> =>
    pair.on('green', (client) =>
      client.query(
        `SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)) FROM generate_series(1, ${mb})`,
      ),
    );

  /** @returns how long it took until the cancel was heard, ms. */
  async function cancelled(context: MockActivityEnvironment, work: Promise<unknown>): Promise<number> {
    const began = performance.now();
    context.cancel();
    await expect(work).rejects.toThrow(/CANCELLED|cancelled/i);
    return performance.now() - began;
  }

  it('is out of reach, the WAL that green keeps for it is told and then dropped, and a cancel is heard at once', async () => {
    const frozen = watch('healthy');
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    pair.servers.blue.kill('SIGSTOP', 'all');
    const state = await frozen.seen;
    expect(state).toMatchObject({ health: 'unreachable', rollbackSafe: false });
    expect(state.why).toMatch(/the feed to blue can't be seen: blue.*(no answer|did not answer|can't be opened)/);

    await write(12);
    const filling = await watch('unreachable').seen;
    expect(filling).toMatchObject({ health: 'filling', rollbackSafe: false });
    expect(filling.why).toMatch(/can't be seen.*holds back \d+ MB of WAL on green; at 20 MB/);

    const hanging = watch('filling');
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    expect(await cancelled(hanging.context, hanging.seen)).toBeLessThan(1_000);

    await write(12);
    expect(await watch('filling').seen).toMatchObject({ health: 'dropped', rollbackSafe: false });
  }, 180_000);

  it('where it is green that is frozen, the watch says so, and not that blue is out of reach', async () => {
    pair.servers.blue.kill('SIGCONT', 'all');
    pair.servers.green.kill('SIGSTOP', 'all');
    try {
      const state = await watch('unreachable').seen;
      expect(state).toMatchObject({ health: 'greenAway', rollbackSafe: false });
      expect(state.why).toMatch(/^the worker can't reach green, which has the writes: green/);
    } finally {
      pair.servers.green.kill('SIGCONT', 'all');
      pair.servers.blue.kill('SIGSTOP', 'all');
    }
  }, 90_000);

  it('and so do the guards of blue, of which one says that it is away, and hear a cancel at once', async () => {
    pair.servers.blue.kill('SIGCONT', 'all');
    const { watchRetainedWal } = replicateActivities(dependencies);
    const { watchSchema, beginSchemaWatch } = watchSchemaActivities(dependencies);
    await new MockActivityEnvironment().run(() => beginSchemaWatch(ref, 'blue'));
    const [wal, schema, left] = Array.from({ length: 3 }, () => new MockActivityEnvironment());
    if (wal === undefined || schema === undefined || left === undefined) throw new Error('three of them');
    const guards = [wal.run(() => watchRetainedWal(ref, 'fine')), schema.run(() => watchSchema(ref, 'blue'))];
    const alone = left.run(() => watchRetainedWal(ref, 'fine'));
    for (const one of [...guards, alone]) one.catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 4_000));
    pair.servers.blue.kill('SIGSTOP', 'all');
    await new Promise((resolve) => setTimeout(resolve, 5_000));
    for (const [i, context] of [wal, schema].entries()) {
      expect(await cancelled(context, guards[i] ?? Promise.resolve())).toBeLessThan(1_000);
    }
    expect(await alone).toMatchObject({
      feed: 'blueAway',
      why: expect.stringMatching(/^the worker can't reach blue, which has the writes: blue/) as string,
    });
  }, 120_000);
});
