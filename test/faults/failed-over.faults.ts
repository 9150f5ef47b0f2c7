import { execFile } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, describe, expect, it } from 'vitest';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { openDecided } from '../../src/postgres/doctor/open.js';
import { whoIsPrimary } from '../../src/postgres/doctor/who-is-primary.js';
import { resumeSignal, retireUpdate } from '../../workflows/messages.js';
import { FaultRun, type FaultRunOptions } from '../support/fault-run.js';
import { LinkProxy } from '../support/link-proxy.js';
import { recordOutcome } from '../support/outcome-table.js';
import { startStandby } from '../support/physical-standby.js';
import { withClient } from '../support/postgres.js';
import type { PlanInput } from '../../src/plan/schema.js';
import type { Side } from '../../src/side.js';

/*
 * One side is failed over to a replica under the same address while the promotion waits for its approval: after rows were
 * compared, and before writes move. Or right after that: green, which loses its opening.
 */

const SETTINGS = { fsync: 'off', wal_keep_size: '256MB' };
const PLAN: Partial<PlanInput> = {
  traffic: {
    stages: [{ percent: 100, for: '1s' }],
    gates: [{ metric: 'lag', max: '10s' }],
    approval: { before: ['promote'] },
  },
  // Moved all the same, it would end as completed.
  standby: { for: '3s' },
};

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
}, 120_000);

/** A side whose address can lead to a replica of it. */
class Failover {
  private constructor(
    private readonly server: EmbeddedPostgres,
    private readonly address: LinkProxy,
  ) {}

  static async of(side: Side): Promise<Failover> {
    const server = await startPostgres({
      version: side === 'blue' ? 15 : 18,
      name: `first-${side}`,
      settings: SETTINGS,
    });
    open.push(() => server.stop());
    const address = await LinkProxy.start(server.port);
    open.push(() => address.close());
    return new Failover(server, address);
  }

  get reached(): { port: number; password: string } {
    return { port: this.address.port, password: this.server.password };
  }

  async replica(): Promise<EmbeddedPostgres> {
    const replica = await startStandby(this.server, { name: 'replica', slot: 'replica', settings: SETTINGS });
    // It ends after the run, whose databases are on it by then.
    open.unshift(() => replica.stop());
    return replica;
  }

  /** The replica gets nothing any more. */
  async leaveBehind(replica: EmbeddedPostgres): Promise<void> {
    await asked(replica, "ALTER SYSTEM SET primary_conninfo = ''");
    await asked(replica, 'SELECT pg_reload_conf()');
    await until(replica, 'SELECT count(*) = 0 AS is FROM pg_stat_wal_receiver');
  }

  async caughtUp(replica: EmbeddedPostgres): Promise<void> {
    const [row] = await asked<{ lsn: string }>(this.server, 'SELECT pg_current_wal_flush_lsn()::text AS lsn');
    await until(replica, `SELECT pg_last_wal_replay_lsn() >= '${row?.lsn ?? ''}' AS is`);
  }

  /** The server is gone, and its address leads to the replica. */
  async to(replica: EmbeddedPostgres): Promise<void> {
    this.server.kill('SIGQUIT');
    await asked(replica, 'SELECT pg_promote(true)');
    this.address.leadTo(replica.port);
  }
}

async function asked<Row extends object>(server: EmbeddedPostgres, sql: string): Promise<Row[]> {
  return withClient({ connectionString: server.uri() }, async (client) => (await client.query<Row>(sql)).rows);
}

async function until(server: EmbeddedPostgres, sql: string): Promise<void> {
  for (let look = 0; look < 600; look++) {
    const [row] = await asked<{ is: boolean }>(server, sql);
    if (row?.is === true) return;
    await sleep(50);
  }
  throw new Error(`never: ${sql}`);
}

/** Blue needs to keep nothing any more of what it has written by now: green has said that it has it. */
async function confirmed(run: FaultRun): Promise<void> {
  await withClient(run.own.blue.config, async (client) => {
    const { rows } = await client.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
    for (;;) {
      const { rows: slots } = await client.query<{ is: boolean | null }>(
        'SELECT bool_and(confirmed_flush_lsn >= $1) AS is FROM pg_replication_slots WHERE database = current_database()',
        [rows[0]?.lsn],
      );
      if (slots[0]?.is === true) return;
      await sleep(50);
    }
  });
}

/** A run whose promotion waits for its approval. */
async function atApproval(options: FaultRunOptions): Promise<FaultRun> {
  const run = await FaultRun.create(options);
  open.push(() => run.close());
  await run.start();
  await run.watch('at the approval', (status) => status.waiting?.gate === 'promote');
  return run;
}

/** As `doctor --open --yes` does. */
async function openByHand({ databases, plan }: FaultRun): Promise<void> {
  const { verdict } = await whoIsPrimary(databases);
  if (verdict.kind !== 'nobody') throw new Error(`it is ${verdict.kind}: ${verdict.why}`);
  await openDecided(databases, plan.name, verdict);
}

function told(fault: string, outcome: string, began: number, point = 'approval of the promotion'): void {
  recordOutcome({ fault, point, outcome, seconds: (performance.now() - began) / 1_000 });
}

describe('a failover between the last comparison of rows and the promotion', () => {
  it(
    "green's, to a replica that lacks rows which green had confirmed: all rows are compared again, and writes stay on blue",
    { timeout: 600_000 },
    async () => {
      const began = performance.now();
      const failover = await Failover.of('green');
      const run = await atApproval({
        purpose: 'failed over',
        green: failover.reached,
        plan: PLAN,
      });
      const replica = await failover.replica();
      await failover.leaveBehind(replica);
      // These writes are on green and not on the replica; blue sends them only once.
      await sleep(1_000);
      await confirmed(run);
      await failover.to(replica);
      await run.approve('promote');
      const { outcome } = await run.ended();
      expect(outcome).toMatch(/^failed: .*differ between blue and green/s);
      expect((await run.look())?.warnings.join('\n')).toContain('green was failed over or restored');
      expect(await run.audit('blue', 'is not followed')).toEqual([]);
      told('green fails over', 'all rows compared again, rolled back', began);
    },
  );

  it(
    "blue's, to a replica, which has no slots: the run ends, and writes stay on blue",
    { timeout: 600_000 },
    async () => {
      const began = performance.now();
      const failover = await Failover.of('blue');
      const run = await atApproval({
        purpose: 'failed over',
        blue: failover.reached,
        plan: PLAN,
      });
      const replica = await failover.replica();
      await run.writers?.pause();
      await failover.caughtUp(replica);
      await failover.to(replica);
      run.writers?.resume();
      await run.approve('promote');
      const { outcome } = await run.ended();
      expect(outcome).toMatch(/^failed: .*a slot of the feed .* was dropped/s);
      expect(await run.refusesWrites('blue')).toBe(false);
      expect(await run.audit('blue', 'is not followed')).toEqual([]);
      told('blue fails over', 'rolled back: its slots are gone', began);
    },
  );
});

/** As a copy of its volume would be made, and put back: the server has the same identity, and what it has got since is gone. */
class Volume {
  private constructor(
    private readonly server: EmbeddedPostgres,
    private readonly copy: string,
  ) {}

  static async copyOf(server: EmbeddedPostgres): Promise<Volume> {
    const volume = new Volume(server, `${server.dataDirectory} of then`);
    await volume.whileDown(server.dataDirectory, volume.copy);
    return volume;
  }

  async putBack(): Promise<void> {
    await this.whileDown(this.copy, this.server.dataDirectory);
  }

  private async whileDown(from: string, to: string): Promise<void> {
    this.server.kill('SIGINT');
    while (existsSync(join(this.server.dataDirectory, 'postmaster.pid'))) await sleep(20);
    rmSync(to, { recursive: true, force: true });
    // With owners and times as they are.
    await promisify(execFile)('cp', ['-a', from, to]);
    await this.server.restart();
  }
}

describe('green is put back in its place between the last comparison of rows and the promotion', () => {
  it.each([
    ['from a copy of its volume that lacks rows', true],
    ['with all that it had', false],
  ])('%s', { timeout: 600_000 }, async (_, isOld) => {
    const began = performance.now();
    const green = await startPostgres({ version: 18, name: 'put-back', settings: SETTINGS });
    open.push(() => green.stop());
    const plan = { ...PLAN, standby: { for: '30m' } };
    const run = await atApproval({ purpose: 'put back', green: { port: green.port, password: green.password }, plan });
    const volume = await Volume.copyOf(green);
    // These writes are not in the copy; blue sends them only once.
    await sleep(1_000);
    await confirmed(run);
    if (isOld) await volume.putBack();
    await run.approve('promote');
    if (!isOld) {
      await run.watch('in the window', ({ phase }) => phase === 'standby');
      expect((await run.look())?.warnings.join('\n')).toContain('green was started anew since rows were compared');
      told('green is restarted', 'compared again, promoted', began);
      return;
    }
    const { outcome } = await run.ended();
    expect(outcome).toMatch(/^failed: .*differ between blue and green/s);
    expect((await run.look())?.warnings.join('\n')).toContain('green was started anew since rows were compared');
    expect(await run.audit('blue', 'is not followed')).toEqual([]);
    told('green is put back from a copy', 'compared again, rolled back', began);
  });
});

describe("green's failover between the decision and its opening, to a replica that lacks rows", () => {
  it(
    'it is not opened by the run, which tells so with the command that opens it as it is; no row of blue is given up unasked',
    { timeout: 600_000 },
    async () => {
      const began = performance.now();
      const failover = await Failover.of('green');
      const run = await atApproval({
        purpose: 'decided for another',
        green: failover.reached,
        plan: { ...PLAN, standby: { for: '30m' } },
      });
      const replica = await failover.replica();
      await failover.leaveBehind(replica);
      // These writes are on green and not on the replica; blue sends them only once.
      await sleep(1_000);
      await confirmed(run);
      const opening = run.stopWhere('green', ({ text }) => text.includes('verdigris.open_fence'), 'before');
      await run.approve('promote');
      const held = await opening;
      await failover.to(replica);
      held.release();

      const isTold = (why = ''): boolean => why.includes('was failed over') && why.includes('it is not opened');
      await run.watch(
        'told',
        ({ waiting }) => isTold(waiting?.why) && waiting?.answer?.includes(' --open --yes') === true,
      );
      expect([await run.refusesWrites('blue'), await run.refusesWrites('green')]).toEqual([true, true]);
      // Its feed is not ended before somebody has decided.
      await withClient(run.own.blue.config, async (client) => {
        const { rows } = await client.query('SELECT FROM pg_replication_slots WHERE database = current_database()');
        expect(rows.length).toBeGreaterThan(0);
      });

      await openByHand(run);
      await run.watch('in the window', ({ phase }) => phase === 'standby');
      expect([await run.refusesWrites('blue'), await run.refusesWrites('green')]).toEqual([true, false]);
      told('green fails over', 'told, not opened; opened by hand, goes on', began, 'between decision and opening');
    },
  );
});

describe("green's failover right after its opening, to a replica that lacks it", () => {
  it(
    'both sides are closed: it is told with the command that opens green as it is, and then the run goes on',
    { timeout: 600_000 },
    async () => {
      const began = performance.now();
      const failover = await Failover.of('green');
      const run = await atApproval({
        purpose: 'opening lost',
        green: failover.reached,
        plan: { ...PLAN, standby: { for: '30m' } },
        // What they had written on green by then would be lost.
        writers: 0,
      });
      const replica = await failover.replica();
      const opening = run.stopWhere('green', ({ text }) => text.includes('verdigris.open_fence'), 'before');
      await run.approve('promote');
      const held = await opening;
      await failover.caughtUp(replica);
      await failover.leaveBehind(replica);
      const finishing = run.stopWhere('green', ({ session }) => session === 'verdigris finish promotion', 'before');
      held.release();
      const begun = await finishing;
      await failover.to(replica);
      begun.release();

      const isTold = (alarms: readonly { readonly next: string }[]): boolean =>
        alarms.some(({ next }) => next.includes(' --open --yes'));
      await run.watch('told', ({ phase, alarms = [] }) => phase === 'standby' && isTold(alarms));
      expect([await run.refusesWrites('blue'), await run.refusesWrites('green')]).toEqual([true, true]);
      await run.handle.executeUpdate(retireUpdate, { args: [{ by: 'the test', reason: 'it must not open green' }] });
      await run.watch('held', (s) => /^the retirement could not begin: .*--open/s.test(s.waiting?.why ?? ''));
      expect(await run.refusesWrites('green')).toBe(true);

      await openByHand(run);
      await run.handle.signal(resumeSignal, { by: 'the test', reason: 'green is open' });
      expect((await run.ended()).outcome).toBe('completed');
      expect([await run.refusesWrites('blue'), await run.refusesWrites('green')]).toEqual([true, false]);
      told('green fails over', 'told; opened by hand, completed', began, 'after its opening');
    },
  );
});
