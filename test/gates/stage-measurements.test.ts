import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Work } from '../../activities/context.js';
import { StageMeasurements, type StageBaseline, type StageEvidence } from '../../activities/stage-measurements.js';
import { judge, type Verdict } from '../../activities/stage-verdict.js';
import { trafficActivities } from '../../activities/traffic.js';
import { scrapeRouters } from '../../src/gates/scrape-source.js';
import { planSchema, type Plan, type PlanInput } from '../../src/plan/schema.js';
import { RequestMetrics } from '../../src/router/metrics.js';
import { databasesOf, type Environment } from '../../src/worker/connections.js';
import { httpEndpoints } from '../../src/worker/http-endpoints.js';
import { MIGRATION, Sides, until } from '../router/sides.js';
import { MetricsPage } from '../support/prometheus.js';

/** Its clock, s since 1970: nobody else's. It runs as fast as these stages ask, every second in place of five. */
const clock = (): string => String(1_000_000_000.5 + (5 * performance.now()) / 1_000);

/** Answers queries as Prometheus does, with what the test has written down; others have no series. */
class Answers {
  numbers: Record<string, string> = {};
  /** The moment for which each query was asked, s. */
  readonly moments = new Set<string | null>();
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => {
      let body = '';
      request.on('data', (part: Buffer) => (body += part.toString()));
      request.on('end', () => {
        const form = new URLSearchParams(body);
        const query = form.get('query') ?? '';
        if (query !== 'time()') this.moments.add(form.get('time'));
        const number = query === 'time()' ? clock() : this.numbers[query];
        const result = number === undefined ? [] : [{ metric: {}, value: [1, number] }];
        response.end(JSON.stringify({ status: 'success', data: { resultType: 'vector', result } }));
      });
    });
  }

  static async open(): Promise<Answers> {
    const answers = new Answers();
    await new Promise<void>((resolve) => answers.#server.listen(0, '127.0.0.1', resolve));
    return answers;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

/** A router's page, as the router writes it. */
class RouterPage {
  readonly metrics = new RequestMetrics();

  constructor(readonly page: MetricsPage) {}

  async follows(epoch: number, generation: number): Promise<void> {
    this.metrics.showRoute({
      ...{ migration: MIGRATION, epoch, generation, writesOn: 'blue', greenReadPercent: 0 },
      ...{ flag: 'use-green-db', opening: null },
    });
    await this.write();
  }

  async reads(green: number, errors: number): Promise<void> {
    for (let i = 0; i < green; i++) this.metrics.record('green', 'read', '/list', i < errors ? 'error' : 'ok', 1);
    await this.write();
  }

  /** As while its link to green is down. */
  async readsInsteadOfGreen(reads: number): Promise<void> {
    for (let i = 0; i < reads; i++) {
      this.metrics.fallback('error', '/list');
      this.metrics.record('blue', 'read', '/list', 'ok', 1);
    }
    await this.write();
  }

  private async write(): Promise<void> {
    this.page.text = await this.metrics.registry.metrics();
  }
}

function planWith(traffic: PlanInput['traffic']): Plan {
  return planSchema.parse({
    ...{ name: MIGRATION, blue: { connection: 'b' }, green: { connection: 'g' } },
    traffic: { scrape: ['routers'], ...traffic },
  });
}

let answers: Answers;
let router: RouterPage;
beforeAll(async () => {
  answers = await Answers.open();
  router = new RouterPage(await MetricsPage.open());
  await router.follows(1, 1);
});
afterAll(() => {
  answers.close();
  router.page.close();
});
const httpVariables = (): Environment => ({
  VERDIGRIS_CONNECTION_HERE: answers.url,
  VERDIGRIS_CONNECTION_ROUTERS: router.page.url,
});

describe('the measurements of a stage', () => {
  const stage = { percent: 10, for: '1m' };
  const environment = (): Environment => ({
    ...httpVariables(),
    VERDIGRIS_CONNECTION_B: 'postgres://u:p@127.0.0.1:1/b',
    VERDIGRIS_CONNECTION_G: 'postgres://u:p@127.0.0.1:1/g',
  });
  const opened: StageMeasurements[] = [];
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((one) => one.close()));
  });

  async function opening(): Promise<StageBaseline> {
    const targets = httpEndpoints('traffic.scrape', 'routers', environment());
    const sample = await scrapeRouters(targets, undefined);
    return { openedAt: sample.at, sample };
  }

  async function measure(plan: Plan, open?: StageBaseline, before?: StageEvidence): Promise<StageMeasurements> {
    const baseline = open ?? (await opening());
    const work: Work = {
      databases: databasesOf(plan, environment()),
      run: { runId: 'r', migration: plan.name },
      signal: new AbortController().signal,
      report: () => undefined,
      session: () => Promise.reject(new Error('no database')),
    };
    const measurements = new StageMeasurements(work, plan, {
      ...{ stage, baseline, environment: environment(), blueNow: Date.now, before, prometheusEveryMs: 1_000 },
    });
    opened.push(measurements);
    await measurements.ready();
    return measurements;
  }

  const said = (plan: Plan, measurements: StageMeasurements): Verdict => {
    const input = measurements.input();
    return judge(plan.traffic, stage, input.at, input);
  };

  /** After three measurements of Prometheus. */
  async function decided(plan: Plan): Promise<Verdict> {
    const measurements = await measure(plan);
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

  test('count what the metrics pages say since the stage opened; a page that is away lets nothing pass', async () => {
    await router.reads(500, 500);
    const plan = planWith({ gates: [{ metric: 'errorRate', max: 0.001 }] });
    const measurements = await measure(plan);
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

  test('a good sample passes no more when the application has lost green, nor at another worker, until it reaches it again', async () => {
    const plan = planWith({ gates: [{ metric: 'errorRate', max: 0.001 }] });
    const baseline = await opening();
    const measurements = await measure(plan, baseline);
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
    const other = await measure(plan, baseline, stored);
    expect(said(plan, other).evidence[0]).toMatchObject(lost);
    await router.reads(20, 0);
    await until(() => said(plan, other).outcome === 'pass');
  });
});

describe('a stage by its activities', () => {
  let sides: Sides;
  beforeAll(async () => {
    sides = await (await Sides.create('stage_measured')).claim();
  });
  afterAll(() => sides.drop());

  const rise = {
    metric: 'prometheus',
    ...{ name: 'seconds', connection: 'here', query: 'seconds_{{side}}', maxIncrease: 5 },
  } as const;

  function act<T>(
    plan: Plan,
    what: (all: ReturnType<typeof trafficActivities>, ref: { plan: Plan; runId: string }) => Promise<T>,
  ): Promise<T> {
    const environment = {
      ...httpVariables(),
      VERDIGRIS_CONNECTION_B: sides.blue.uri,
      VERDIGRIS_CONNECTION_G: sides.green.uri,
    };
    const activities = trafficActivities({
      environment,
      redact: (text) => text,
      patience: { lookMs: 20_000, prometheusEveryMs: 1_000 },
    });
    return new MockActivityEnvironment().run(() => what(activities, { plan, runId: 'r' }));
  }

  /** Opens a stage, which the router's page confirms once the route says so. */
  async function open(plan: Plan, percent: number): Promise<void> {
    const route = async (): Promise<{ e: number; g: number }> => {
      const [row] = await sides.sql<{ e: number; g: number }>(
        'blue',
        'SELECT epoch::int AS e, generation::int AS g FROM verdigris.route',
      );
      if (row === undefined) throw new Error('no route');
      return row;
    };
    const before = await route();
    await router.follows(before.e, before.g);
    let isOpen = false;
    const opening = act(plan, (all, ref) => all.openStage(ref, { percent, for: '0s' })).then((opened) => {
      isOpen = true;
      return opened;
    });
    await until(async () => (await route()).g > before.g);
    await sleep(150);
    // The page still shows the route of before.
    expect(isOpen).toBe(false);
    const { e, g } = await route();
    await router.follows(e, g);
    expect(await opening).toEqual({ routers: 1 });
  }

  const judged = async (plan: Plan, percent: number): Promise<Verdict> =>
    act(plan, (all, ref) => all.judgeStage(ref, { percent, for: '0s' }));

  test('that leaves blue no reads compares green with blue as Prometheus showed it before, and waits until the metrics pages confirm it', async () => {
    const plan = planWith({ gates: [rise], maxStageDuration: '1s' });
    answers.numbers = { seconds_blue: '10', seconds_green: '12' };
    await open(plan, 100);
    // Blue has no reads any more: no series.
    answers.numbers = { seconds_green: '12' };
    const passed = await judged(plan, 100);
    expect(passed.evidence[0]?.because).toBe('"seconds" is 12; at most 5 above blue\'s 10 before the stage is allowed');
    expect(passed.outcome).toBe('pass');
    // Opened again while blue has no reads, as after a hold: the number of before stays.
    await open(plan, 100);
    expect((await judged(plan, 100)).outcome).toBe('pass');
    answers.numbers = { seconds_green: '16' };
    expect((await judged(plan, 100)).evidence[0]?.because).toContain('"seconds" is 16; at most 5 above');
  });

  test('that leaves blue enough compares with blue of now', async () => {
    await sides.reset();
    const plan = planWith({ gates: [rise], maxStageDuration: '1s' });
    answers.numbers = { seconds_blue: '10', seconds_green: '12' };
    await open(plan, 50);
    answers.numbers = { seconds_blue: '30', seconds_green: '32' };
    const { outcome, evidence } = await judged(plan, 50);
    expect(evidence[0]?.because).toBe('"seconds" is 32; at most 5 above blue\'s 30 is allowed');
    expect(outcome).toBe('pass');
  });

  test('keeps when the transactions of before were counted', async () => {
    await sides.reset();
    await sides.sql(
      'blue',
      `INSERT INTO verdigris.progress (run_id, step, object, state, done)
       VALUES ('r', 'stage', 'transactions before', '{"perSecond": 40, "atMs": 1234}', true)`,
    );
    await open(planWith({ gates: [{ metric: 'transactionVolume', maxDrop: 0.5 }] }), 20);
    const kept = await sides.sql(
      'blue',
      `SELECT state -> 'volumeBefore' AS volume, state -> 'volumeBeforeAtMs' AS at
         FROM verdigris.progress WHERE run_id = 'r' AND step = 'stage' AND object = '20'`,
    );
    expect(kept).toEqual([{ volume: 40, at: 1234 }]);
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
    expect((await act(plan, (all, ref) => all.forecastGates(ref))).warnings).toEqual([
      "the routers have had no read within 5 s: errorRate can't decide",
      expect.stringContaining(
        'stage 10 % for 1m at 2 requests a second gives 12 on green; prometheus: orders max 0.005',
      ),
    ]);
  });
});
