import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import type { Verdict } from '../../activities/stage-verdict.js';
import type { Plan } from '../../src/plan/schema.js';
import { until } from '../router/sides.js';
import { MeasuredStages, said } from '../support/measured-stages.js';
import { StageByActivities } from '../support/stage-by-activities.js';
import { planWith, StageSources, type Answers, type RouterPage } from '../support/stage-sources.js';

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
});
