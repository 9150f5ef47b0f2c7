import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import type { StageEvidence } from '../../activities/stage-measurements.js';
import type { Verdict } from '../../activities/stage-verdict.js';
import type { GateWindow } from '../../src/gates/window.js';
import type { Plan } from '../../src/plan/schema.js';
import { until } from '../router/sides.js';
import { MeasuredStages, said } from '../support/measured-stages.js';
import { StageByActivities } from '../support/stage-by-activities.js';
import { planWith, RISE, RouterPage, StageSources, type Answers } from '../support/stage-sources.js';

let sources: StageSources;
let answers: Answers;
let router: RouterPage;
beforeAll(async () => {
  sources = await StageSources.open();
  ({ answers, router } = sources);
});
afterAll(() => sources.close());

describe('the measurements of a stage', () => {
  let measured: MeasuredStages;
  beforeAll(() => {
    measured = new MeasuredStages(sources);
  });
  afterEach(() => measured.close());

  /** After three measurements of Prometheus. */
  async function decided(plan: Plan): Promise<Verdict> {
    const measurements = await measured.measure(plan);
    expect(said(plan, measurements).outcome).not.toMatch(/pass|fail/);
    const has = ({ outcome }: { outcome: string }): boolean => outcome !== 'inconclusive';
    await until(() => [said(plan, measurements), ...said(plan, measurements).evidence].every(has), 30_000);
    return said(plan, measurements);
  }

  const checkout = { metric: 'prometheus', name: 'checkout', query: 'failed', max: 0.01 } as const;
  const search = { metric: 'prometheus', name: 'search', connection: 'here', query: 'slow', max: 1 } as const;

  test('ask each gate of a Prometheus by itself: one that is away hides none that fails, not of the same name either', async () => {
    answers.numbers = { failed: '50', slow: '0' };
    const plan = planWith({
      gates: [{ ...checkout, connection: 'away' }, search, { ...checkout, connection: 'here' }],
    });
    // In the other order as well.
    const turned = planWith({
      gates: [search, { ...checkout, connection: 'here' }, { ...checkout, connection: 'away' }],
    });
    const [verdict, other] = await Promise.all([decided(plan), decided(turned)]);
    expect(verdict.evidence.map(({ outcome }) => outcome)).toEqual(['error', 'pass', 'fail']);
    expect(verdict.evidence[0]?.because).toContain('the worker knows no connection "away"');
    expect(verdict.outcome).toBe('fail');
    expect(other.evidence.map(({ outcome }) => outcome)).toEqual(['pass', 'fail', 'error']);
  });

  test('count what the metrics pages say since the stage opened; a page that is away lets nothing pass', async () => {
    await router.reads(500, 500);
    const plan = planWith({ gates: [{ metric: 'errorRate', max: 0.001 }] });
    const measurements = await measured.measure(plan);
    expect(said(plan, measurements).outcome).toBe('inconclusive');
    await router.reads(3_000, 0);
    await until(() => said(plan, measurements).outcome === 'pass');
    router.page.text = undefined;
    await until(() => said(plan, measurements).outcome !== 'pass');
    expect(said(plan, measurements).evidence[0]).toMatchObject({
      outcome: 'inconclusive',
      because: 'no router has reported within the last seconds',
    });
    await router.reads(0, 0);
  });

  test('go on with what a process behind a page had counted before it was restarted, at another worker, too', async () => {
    const plan = planWith({ gates: [{ metric: 'errorRate', max: 0.001 }] });
    const baseline = await measured.opening();
    const measurements = await measured.measure(plan, baseline);
    const counted = ({ window }: { window: GateWindow }): number[] => [window.green.requests, window.green.errors];
    await router.reads(6_000, 5);
    await until(() => counted(measurements.input())[0] === 6_000);
    const restarted = new RouterPage(router.page);
    await restarted.follows(1, 1);
    await restarted.reads(50, 1);
    await until(() => counted(measurements.input())[0] === 6_050);
    expect(counted(measurements.input())).toEqual([6_050, 6]);
    expect(said(plan, measurements).outcome).not.toBe('pass');

    await until(() => (measurements.input(), measurements.newEvidence() !== undefined), 10_000);
    const stored = JSON.parse(JSON.stringify(measurements.evidence())) as StageEvidence;
    const other = await measured.measure(plan, baseline, stored);
    await restarted.reads(10_000, 0);
    await until(() => counted(other.input())[0] === 16_050);
    expect(counted(other.input())).toEqual([16_050, 6]);
    await router.reads(0, 0);
  });

  test('a gate that is a dry run fails and is shown, and the stage passes', async () => {
    answers.numbers = { failed: '50', slow: '0' };
    const plan = planWith({ gates: [search, { ...checkout, connection: 'here', dryRun: true }] });
    const counts = planWith({ gates: [search, { ...checkout, connection: 'here' }] });
    const [verdict, counted] = await Promise.all([decided(plan), decided(counts)]);
    expect(verdict).toMatchObject({
      outcome: 'pass',
      evidence: [{ outcome: 'pass' }, { metric: 'prometheus: checkout', outcome: 'fail', dryRun: true }],
    });
    expect(counted.outcome).toBe('fail');
  });

  test('a good sample passes no more when the application has lost green, nor at another worker, until it reaches it again', async () => {
    const plan = planWith({ gates: [{ metric: 'errorRate', max: 0.001 }] });
    const baseline = await measured.opening();
    const measurements = await measured.measure(plan, baseline);
    await router.reads(10_000, 0);
    await until(() => said(plan, measurements).outcome === 'pass');
    // The end of a slice: good reads before it make nothing new.
    await until(() => (measurements.input(), measurements.newEvidence() !== undefined), 10_000);
    await router.readsInsteadOfGreen(500);
    await until(() => said(plan, measurements).outcome !== 'pass');
    const lost = { outcome: 'inconclusive', because: expect.stringContaining('do not reach green') as string };
    expect(said(plan, measurements).evidence[0]).toMatchObject(lost);

    await until(() => (measurements.input(), measurements.newEvidence() !== undefined), 10_000);
    const stored = JSON.parse(JSON.stringify(measurements.evidence())) as StageEvidence;
    const other = await measured.measure(plan, baseline, stored);
    expect(said(plan, other).evidence[0]).toMatchObject(lost);
    await router.reads(20, 0);
    await until(() => said(plan, other).outcome === 'pass');
  });
});

describe('a stage by its activities', () => {
  let staged: StageByActivities;
  beforeAll(async () => {
    staged = await StageByActivities.create(sources, 'stage_measured');
  });
  afterAll(() => staged.sides.drop());

  test('is opened and measured by the clock of blue, whatever that of the worker says', async () => {
    const plan = planWith({ gates: [{ metric: 'errorRate', max: 0.001 }], maxStageDuration: '1s' });
    const keptOf = async (step: string, field: string): Promise<number> => {
      const [row] = await staged.sides.sql<{ seconds: number }>(
        'blue',
        `SELECT extract(epoch FROM (state #>> '{${field}}')::timestamptz - clock_timestamp())::float8 AS seconds
           FROM verdigris.progress WHERE run_id = 'r' AND step = '${step}' AND object = '30'`,
      );
      return row?.seconds ?? NaN;
    };
    try {
      for (const hours of [1, -1]) {
        await staged.sides.reset();
        vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + hours * 3_600_000 });
        await staged.open(plan, 30);
        expect(Math.abs(await keptOf('stage', 'openedAt'))).toBeLessThan(600);
        expect(Math.abs(await keptOf('stage', 'sample,at'))).toBeLessThan(600);
        vi.useRealTimers();
      }
      // Another worker, with a clock that is right, goes on from an opening an hour ago by the first one's.
      await router.reads(3_000, 0);
      const { evidence } = await staged.judged(plan, 30);
      expect(evidence[0]?.because).toContain('0 of 3,000');
      expect(Math.abs(await keptOf('stage evidence', 'until,at'))).toBeLessThan(600);
    } finally {
      vi.useRealTimers();
    }
  });

  test('keeps when the transactions of before were counted', async () => {
    await staged.sides.reset();
    await staged.sides.sql(
      'blue',
      `INSERT INTO verdigris.progress (run_id, step, object, state, done)
       VALUES ('r', 'stage', 'transactions before', '{"perSecond": 40, "atMs": 1234}', true)`,
    );
    await staged.open(planWith({ gates: [{ metric: 'transactionVolume', maxDrop: 0.5 }] }), 20);
    const kept = await staged.sides.sql(
      'blue',
      `SELECT state -> 'volumeBefore' AS volume, state -> 'volumeBeforeAtMs' AS at
         FROM verdigris.progress WHERE run_id = 'r' AND step = 'stage' AND object = '20'`,
    );
    expect(kept).toEqual([{ volume: 40, at: 1234 }]);
  });

  test('counts the transactions of before anew while all reads are on blue, where there were none to miss', async () => {
    const plan = planWith({ gates: [{ metric: 'transactionVolume', maxDrop: 0.5 }] });
    const kept = async (): Promise<number | undefined> => {
      const [row] = await staged.sides.sql<{ rate: number }>(
        'blue',
        `SELECT (state ->> 'perSecond')::float8 AS rate FROM verdigris.progress
          WHERE run_id = 'r' AND step = 'stage' AND object = 'transactions before'`,
      );
      return row?.rate;
    };
    await staged.sides.reset();
    await staged.sides.sql(
      'blue',
      `INSERT INTO verdigris.progress (run_id, step, object, state, done)
       VALUES ('r', 'stage', 'transactions before', '{"perSecond": -24700, "atMs": 1234}', true)
       ON CONFLICT (run_id, step, object) DO UPDATE SET state = excluded.state`,
    );
    await staged.open(plan, 20);
    const now = await kept();
    expect(now).toBeGreaterThanOrEqual(0);
    // Green has readers now, so there is nothing to compare with any more.
    await staged.open(plan, 30);
    expect(await kept()).toBe(now);
  });

  test('that leaves blue enough compares with blue of now', async () => {
    await staged.sides.reset();
    const plan = planWith({ gates: [RISE], maxStageDuration: '1s' });
    answers.numbers = { seconds_blue: '10', seconds_green: '12' };
    await staged.open(plan, 50);
    answers.numbers = { seconds_blue: '30', seconds_green: '32' };
    const { outcome, evidence } = await staged.judged(plan, 50);
    expect(evidence[0]?.because).toBe('"seconds" is 32; at most 5 above blue\'s 30 is allowed');
    expect(outcome).toBe('pass');
  });

  test('that leaves blue no reads compares green with blue as Prometheus showed it before, and waits until the metrics pages confirm it', async () => {
    const plan = planWith({ gates: [RISE], maxStageDuration: '1s' });
    answers.numbers = { seconds_blue: '10', seconds_green: '12' };
    await staged.open(plan, 100);
    // Blue has no reads any more: no series.
    answers.numbers = { seconds_green: '12' };
    const passed = await staged.judged(plan, 100);
    expect(passed.evidence[0]?.because).toBe('"seconds" is 12; at most 5 above blue\'s 10 before the stage is allowed');
    expect(passed.outcome).toBe('pass');
    // Opened again while blue has no reads, as after a hold: the number of before stays.
    await staged.open(plan, 100);
    expect((await staged.judged(plan, 100)).outcome).toBe('pass');
    answers.numbers = { seconds_green: '16' };
    expect((await staged.judged(plan, 100)).evidence[0]?.because).toContain('"seconds" is 16; at most 5 above');
  });

  test('has its reads taken back by the worker that sees a gate fail, also when that has lost its session', async () => {
    await staged.sides.reset();
    answers.numbers = { failed: '0' };
    const gate = { metric: 'prometheus', name: 'checkout', connection: 'here', query: 'failed', max: 0.01 } as const;
    const plan = planWith({ gates: [gate], maxStageDuration: '30s' });
    await staged.open(plan, 40);
    answers.numbers = { failed: '50' };
    const judged = staged.judged(plan, 40);
    const lookedAt = "SELECT FROM verdigris.progress WHERE step = 'stage evidence' AND object = '40'";
    await until(async () => (await staged.sides.sql('blue', lookedAt)).length > 0);
    const ended = await staged.sides.sql(
      'blue',
      `SELECT pg_terminate_backend(pid) AS yes FROM pg_stat_activity
        WHERE application_name = 'verdigris gates' AND datname = current_database()`,
    );
    expect(ended).toEqual([{ yes: true }]);
    expect((await judged).outcome).toBe('fail');
    const route = 'SELECT green_read_percent::float8 AS percent FROM verdigris.route';
    expect(await staged.sides.sql('blue', route)).toEqual([{ percent: 0 }]);
  });

  test('is told beforehand what its gates will not have enough of, by the metrics pages and by Prometheus', async () => {
    answers.numbers = { count_blue_300s: '600' };
    const share = { metric: 'prometheus', name: 'orders', connection: 'here', query: 'failed', max: 0.005 } as const;
    const requests = 'count_{{ side }}_{{window}}';
    const plan = planWith({
      gates: [
        { metric: 'errorRate', max: 0.001 },
        { ...share, requests },
      ],
      stages: [{ percent: 10, for: '1m' }],
    });
    expect((await staged.act(plan, (all, ref) => all.forecastGates(ref))).warnings).toEqual([
      "the routers have had no read within 5 s: errorRate can't decide",
      expect.stringContaining(
        'stage 10 % for 1m at 2 requests a second gives 12 on green; prometheus: orders max 0.005',
      ),
      expect.stringContaining('no gate compares what green answers with what blue does'),
    ]);
  });
});
