import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { StageEvidence } from '../../activities/stage-measurements.js';
import type { Verdict } from '../../activities/stage-verdict.js';
import type { Plan } from '../../src/plan/schema.js';
import { until } from '../router/sides.js';
import { MeasuredStages, said } from '../support/measured-stages.js';
import { StageByActivities } from '../support/stage-by-activities.js';
import { planWith, RISE, StageSources, type Answers, type RouterPage } from '../support/stage-sources.js';

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
