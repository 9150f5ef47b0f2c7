import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { FeedNews, FeedState } from '../../activities/feed-watch.js';
import type { RetainedWal, WalLevel } from '../../activities/replicate.js';
import type { PlanInput } from '../../src/plan/schema.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { approveUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { statusOf, until } from '../support/migration.js';
import { failureOf } from '../support/run-end.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

/** The WAL that blue keeps is as much as the test says. */
class Wal {
  #now: WalLevel | 'too much' = 'fine';
  #changed: () => void = () => undefined;

  is(level: WalLevel | 'too much'): void {
    this.#now = level;
    this.#changed();
  }

  get activities(): Overrides {
    return {
      watchRetainedWal: async (_run, _ref, known): Promise<RetainedWal> => {
        const changed = new Promise<void>((resolve) => (this.#changed = resolve));
        if (this.#now === known) await Promise.race([changed, untilCancelled()]);
        if (this.#now === 'too much') throw ApplicationFailure.nonRetryable('21 GB of WAL', 'RetainedWalExceeded');
        return { level: this.#now, why: `the WAL is ${this.#now}` };
      },
    };
  }
}

const walAlarm = ({ alarms = [] }: MigrationStatus): string | undefined =>
  alarms.find(({ about }) => about === 'WAL')?.state;

const feedAlarm = ({ alarms = [] }: MigrationStatus): string | undefined =>
  alarms.find(({ about }) => about === 'feed')?.state;

/** Answers of the watch in turn, each as soon as it is asked; then it goes on for ever. */
function watchSays(...answers: readonly (RetainedWal | FeedNews)[]): {
  activities: Overrides;
  asked: (readonly [known: string, feed: FeedState])[];
  next: () => void;
} {
  const left = [...answers];
  const asked: (readonly [string, FeedState])[] = [];
  let go = (): void => undefined;
  const watchRetainedWal: Overrides['watchRetainedWal'] = async (_run, _ref, known, feed = 'follows') => {
    asked.push([known, feed]);
    await Promise.race([new Promise<void>((resolve) => (go = resolve)), untilCancelled()]);
    return left.shift() ?? untilCancelled();
  };
  return { activities: { watchRetainedWal }, asked, next: () => go() };
}

const times = (run: ScriptedRun, entry: string): number => run.log.filter((one) => one === entry).length;

describe.concurrent('WAL that blue keeps for green', () => {
  it.each(['backfillTables', 'verify'] as const)(
    'warns, has %s give way while it is nearly too much, and lets it go on after that',
    async (heavy) => {
      const wal = new Wal();
      let calls = 0;
      const run = await runs.begin({
        ...wal.activities,
        expandTables: () => ({ tables: ['public.t'], steps: [] }),
        [heavy]: () => (calls++ === 0 ? untilCancelled(200) : RESULTS[heavy]),
      });
      await run.saw(`+${heavy}`);
      wal.is('warn');
      const warned = await until(run.handle, 'warned', (s) => walAlarm(s) === 'warn');
      expect(warned.warnings).toContain('the WAL is warn');
      expect(warned.waiting).toBeNull();
      expect(times(run, `-${heavy}`)).toBe(0);
      wal.is('hold');
      await run.saw(`-${heavy}`);
      const held = await until(run.handle, 'held', (s) => s.waiting?.why === 'the WAL is hold');
      expect(walAlarm(held)).toBe('hold');
      expect(times(run, `+${heavy}`)).toBe(1);
      wal.is('fine');
      await run.saw(`-${heavy}`, 2);
      await until(run.handle, 'fine again', (s) => walAlarm(s) === undefined && s.waiting?.for !== 'retry');
      await run.handle.cancel();
      await run.handle.result().catch(() => undefined);
      await replayed(run);
    },
  );

  it('ends the run at the limit, and the slots that keep it go', async () => {
    const wal = new Wal();
    const run = await runs.begin({ ...wal.activities, verify: () => untilCancelled(200) });
    await run.saw('+verify');
    wal.is('too much');
    expect((await failureOf(run)).cause?.message).toMatch(/^rolled back: 21 GB of WAL/);
    expect(run.at('-verify')).toBeLessThan(run.at('+undoReplication'));
    run.at('-undoReplication');
  });

  it('that blue does not let us watch, since it refuses the login, ends no run: it is told until it does', async () => {
    let isRefused = true;
    const watchRetainedWal = (): unknown => {
      if (!isRefused) return untilCancelled();
      const line = `blue: the connection "b" can't be opened: the password or the user is wrong (28P01)`;
      throw ApplicationFailure.nonRetryable(`${line}\nNext step: check VERDIGRIS_CONNECTION_B`, 'ConnectionFailed');
    };
    const run = await runs.begin({ watchRetainedWal, verify: () => untilCancelled() });
    const told = await until(run.handle, 'told', (s) => walAlarm(s) === 'unwatched');
    expect(told).toMatchObject({ outcome: 'running', rollingBack: null });
    isRefused = false;
    await run.handle.cancel();
    await run.handle.result().catch(() => undefined);
    run.at('-undoReplication');
    await replayed(run);
  });

  it('that blue does not let us watch ends no run that failures hold: it is told', async () => {
    const refused = (): never => {
      throw ApplicationFailure.nonRetryable('blue: there is no such database (3D000)', 'ConnectionFailed');
    };
    const plan = { onFailure: 'hold' } as const;
    const run = await runs.begin({ watchRetainedWal: refused, verify: refused }, plan);
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume' && walAlarm(s) === 'unwatched');
    expect(held.waiting?.why).toContain('3D000');
    expect(times(run, '+undoReplication')).toBe(0);
    await run.handle.cancel();
    await run.handle.result().catch(() => undefined);
    run.at('-undoReplication');
    await replayed(run);
  });
});

describe.concurrent('a green that does not follow, or a side that is away, before the promotion', () => {
  const ASKS: PlanInput['traffic'] = { stages: [{ percent: 1, for: '0s' }], approval: { before: ['promote'] } };
  const AWAY = { feed: 'greenAway', why: "the worker can't reach green" } as const;

  it('is an alarm while an approval is waited for, until it is back; the WAL is known as before', async () => {
    const says = watchSays(
      AWAY,
      { level: 'warn', why: 'half of the WAL' },
      { feed: 'notFollowing', why: 'green does not follow blue' },
      { feed: 'synchronous', why: 'blue takes the feed for a synchronous standby' },
      { feed: 'follows', why: 'green follows blue' },
    );
    const run = await runs.begin(says.activities, { traffic: ASKS });
    await until(run.handle, 'asking', (s) => s.waiting?.gate === 'promote');
    says.next();
    const away = await until(run.handle, 'told', (s) => feedAlarm(s) === 'greenAway');
    expect(away.waiting?.gate).toBe('promote');
    expect(away.alarms?.[0]?.next).toMatch(/^bring green back.*the run waits for it and goes on by itself/);
    await run.saw('+watchRetainedWal', 2);
    says.next();
    await until(run.handle, 'told of the WAL, too', (s) => walAlarm(s) === 'warn' && feedAlarm(s) === 'greenAway');
    await run.saw('+watchRetainedWal', 3);
    says.next();
    await until(run.handle, 'told of another thing', (s) => feedAlarm(s) === 'notFollowing');
    await run.saw('+watchRetainedWal', 4);
    says.next();
    const waited = await until(run.handle, 'told what commits wait for', (s) => feedAlarm(s) === 'synchronous');
    expect(waited.alarms?.find(({ about }) => about === 'feed')?.next).toMatch(
      /^name the replicas there instead of \*/,
    );
    await run.saw('+watchRetainedWal', 5);
    says.next();
    await until(run.handle, 'over', (s) => feedAlarm(s) === undefined && walAlarm(s) === 'warn');
    await run.saw('+watchRetainedWal', 6);
    expect(says.asked).toEqual([
      ['fine', 'follows'],
      ['fine', 'greenAway'],
      ['warn', 'greenAway'],
      ['warn', 'notFollowing'],
      ['warn', 'synchronous'],
      ['warn', 'follows'],
    ]);
    await run.handle.cancel();
    await run.handle.result().catch(() => undefined);
    await replayed(run);
  });

  it('is what the watch of the standby window goes on from', async () => {
    const known: string[] = [];
    const watchStandby: Overrides['watchStandby'] = (_run, _ref, told) => {
      known.push(told);
      return untilCancelled();
    };
    const says = watchSays(AWAY);
    const run = await runs.begin({ ...says.activities, watchStandby }, { traffic: ASKS });
    await until(run.handle, 'asking', (s) => s.waiting?.gate === 'promote');
    says.next();
    await until(run.handle, 'told', (s) => feedAlarm(s) === 'greenAway');
    await run.handle.executeUpdate(approveUpdate, { args: [{ gate: 'promote', by: 'ada', reason: 'go' }] });
    await run.saw('+watchStandby');
    expect(known).toEqual(['greenAway']);
    expect(feedAlarm(await statusOf(run.handle))).toBe('greenAway');
    await run.handle.cancel();
    await run.handle.result().catch(() => undefined);
  });

  it.each(['blueAway', 'greenAway'] as const)('is not told once green has the writes: %s', async (feed) => {
    const says = watchSays({ feed, why: 'lost after the decision' });
    const finishPromotion = (): Promise<never> => untilCancelled();
    const run = await runs.begin({ ...says.activities, finishPromotion });
    await run.saw('+finishPromotion');
    says.next();
    await run.saw('+watchRetainedWal', 2);
    const status = await statusOf(run.handle);
    expect(status.writesOn).toBe('green');
    expect(status.alarms ?? []).toEqual([]);
    await run.handle.terminate();
  });

  it('stays an alarm in a rollback, which nobody is told as its end', async () => {
    const told: string[] = [];
    let undoing: string | undefined;
    const says = watchSays(AWAY);
    const run = await runs.begin(
      {
        ...says.activities,
        verify: () => untilCancelled(),
        undoReplication: async ({ handle }) => {
          undoing = feedAlarm(await statusOf(handle));
        },
        notify: (_run, _ref, _told, _target, notices) => {
          told.push(...notices.map(({ text }) => text));
          return { undelivered: 0, why: null };
        },
      },
      { notify: [{ connection: 'hook', events: ['alarm', 'rolledBack'] }] },
    );
    await run.saw('+verify');
    says.next();
    await until(run.handle, 'told', (s) => feedAlarm(s) === 'greenAway');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ by: 'ada', reason: 'green is lost' }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(undoing).toBe('greenAway');
    expect(report.alarms).toEqual([]);
    expect(told).toEqual([
      expect.stringMatching(/^the worker can't reach green/),
      'rolled back: blue serves everything',
    ]);
    await replayed(run);
  });
});

const RESULTS = {
  backfillTables: undefined,
  verify: { scope: 'all', tables: 1, rowsVerified: 1, differingRows: 0, examples: [], at: new Date().toISOString() },
};
