import { writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { promoteActivities } from '../../activities/promote.js';
import { run } from '../../src/cli/run.js';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import type { Side } from '../../src/side.js';
import { DEATHS, killWorkerAt } from '../support/pooled-death.js';
import { PooledPair } from '../support/pooled-pair.js';
import { withClient } from '../support/postgres.js';
import { testTemporal } from '../support/temporal.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED a half-done promotion behind PgBouncer: pgbouncer is not installed\n');

describe.skipIf(!isThere)('a promotion behind PgBouncer whose worker has died right after the decision', () => {
  let pair: PooledPair;
  let folder = '';
  let file = '';

  beforeAll(async () => {
    pair = await PooledPair.create('pooled half done', { poolers: 1 });
    folder = await mkdtemp(join(tmpdir(), 'verdigris-half-done-'));
    file = join(folder, 'plan.json');
    const uri = (side: Side): string => {
      const { host, port, user, password, database } = pair.databases[side].config;
      return `postgres://${String(user)}:${String(password)}@${String(host)}:${String(port)}/${String(database)}`;
    };
    process.env['VERDIGRIS_CONNECTION_H_BLUE'] = uri('blue');
    process.env['VERDIGRIS_CONNECTION_H_GREEN'] = uri('green');
    process.env['VERDIGRIS_CONNECTION_H_POOL'] =
      `postgres://${pair.user}:secret@127.0.0.1:${pair.poolers[0]?.port ?? 0}/pgbouncer`;
    const decided = DEATHS.find(({ name }) => name === 'it has been decided');
    if (decided === undefined) throw new Error('there is no such point');
    expect(await killWorkerAt(pair, decided)).toEqual({ outcome: 'killed there' });
  });

  afterAll(async () => {
    for (const name of ['H_BLUE', 'H_GREEN', 'H_POOL']) delete process.env[`VERDIGRIS_CONNECTION_${name}`];
    await rm(folder, { recursive: true, force: true });
    await pair.close();
  });

  interface Said {
    readonly code: number;
    readonly text: string;
  }

  async function doctorOf(about: readonly string[], ...args: string[]): Promise<Said> {
    const lines: string[] = [];
    const say = (text: string): void => void lines.push(text);
    const over = ['--run-is-over', pair.migration, '--address', testTemporal().address];
    const code = await run(['doctor', ...about, ...over, ...args], { out: say, note: say });
    return { code, text: lines.join('\n') };
  }

  function doctor(...args: string[]): Promise<Said> {
    return doctorOf(['--blue', 'h_blue', '--green', 'h_green'], ...args);
  }

  function plan(): PlanInput {
    return {
      ...{ name: pair.migration, blue: { connection: 'h_blue' }, green: { connection: 'h_green' } },
      traffic: {
        stages: [{ percent: 100, for: '1h' }],
        gates: [{ metric: 'lag', max: '5s' }],
        pgbouncer: {
          databases: ['orders'],
          instances: [{ connection: 'h_pool', file: pair.poolers[0]?.file ?? '' }],
        },
      },
    };
  }

  async function finish(): Promise<void> {
    const { finishPromotion } = promoteActivities({ environment: process.env, redact: (text) => text });
    const ref = { plan: planSchema.parse(plan()), runId: 'run' };
    await new MockActivityEnvironment().run(() => finishPromotion(ref, 'blue'));
  }

  it('is opened by the doctor, which says that its clients still wait, and what for', async () => {
    const { code, text } = await doctor('--pgbouncer', 'h_pool', '--open', '--yes');
    expect(text).toMatch(/primary +green, epoch \d+/);
    expect(text).toMatch(/PgBouncer "h_pool" holds its clients: "orders" paused.*\n.*RELOAD; RESUME orders;/);
    expect(code).toBe(1);
    writeFileSync(file, JSON.stringify(plan()));
    const again = await doctorOf([file], '--open', '--yes');
    expect(again.text).toMatch(/PgBouncer "h_pool" leads to blue, and writes are on green/);
    expect(again.code).toBe(1);
  });

  it('lets its clients go on although something is in the way of ending the old feed', async () => {
    await withClient(pair.databases.green.config, async (holder) => {
      await holder.query('BEGIN; LOCK TABLE public.history IN SHARE UPDATE EXCLUSIVE MODE');
      let hasEnded = false;
      const finishing = finish().finally(() => (hasEnded = true));
      await withClient({ ...pair.clientOf(0), query_timeout: 8_000 }, (client) =>
        client.query('UPDATE accounts SET balance = balance WHERE id = 1'),
      );
      expect(hasEnded).toBe(false);
      await holder.query('ROLLBACK');
      await finishing;
    });
    await pair.expectSettled('green');
  });
});
