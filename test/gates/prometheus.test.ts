import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { preflightActivities } from '../../activities/preflight.js';
import { decideGate, type GateDecision } from '../../src/gates/decide.js';
import { checkGateSources } from '../../src/gates/preflight.js';
import { measurePrometheus, type PrometheusGate } from '../../src/gates/prometheus-measurement.js';
import { queryPrometheus, type PrometheusAnswer } from '../../src/gates/prometheus-query.js';
import { windowBetween } from '../../src/gates/window.js';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import { findPrometheus, MetricsPage, TestPrometheus } from '../support/prometheus.js';

const program = findPrometheus();
if (program === undefined) process.stdout.write('SKIPPED gates that ask a real Prometheus: it is not installed\n');
const NOTHING = { at: '2026-11-23T00:00:00.000Z', live: [], stale: [], unreadable: [] };

function decide(gate: PrometheusGate, measured: Parameters<typeof decideGate>[1]['prometheus']): GateDecision {
  return decideGate(gate, {
    window: windowBetween(NOTHING, NOTHING),
    lagMs: [],
    ...(measured && { prometheus: measured }),
  });
}

/** What a gate says of an answer that stays the same. */
async function ask(gate: PrometheusGate, url: string, windowSeconds = 60, atMs = Date.now()): Promise<GateDecision> {
  const scope = { migration: 'shop', stage: 1, windowSeconds, atMs };
  const measured = await measurePrometheus({ name: 'monitoring', url }, gate, scope);
  return decide(gate, new Map([[gate, { measured: [measured, measured, measured] }]]));
}

function gate(query: string, more: Partial<PrometheusGate> = {}): PrometheusGate {
  return { metric: 'prometheus', name: 'test', connection: 'monitoring', query, max: 1, ...more };
}

describe.skipIf(program === undefined)('a gate that asks a real Prometheus (skipped where it is not installed)', () => {
  let page: MetricsPage;
  let prometheus: TestPrometheus;
  const answer = (query: string): Promise<PrometheusAnswer> =>
    queryPrometheus({ name: 'monitoring', url: prometheus.url }, query, { atMs: Date.now() });

  /** Writes the page, and waits until Prometheus has read it a few times, lately with success. */
  async function expose(text: string): Promise<void> {
    page.text = text;
    const before = page.asked;
    while (page.asked < before + 3) await sleep(50);
    await sleep(100);
    // Where a busy machine let one time out, no series is there until the next one.
    while (!(await isRead())) await sleep(50);
  }

  async function isRead(): Promise<boolean> {
    const read = await answer('min(min_over_time(up[700ms]) and count_over_time(up[700ms]) >= 2)');
    return read.kind === 'value' && read.value === 1;
  }

  beforeAll(async () => {
    page = await MetricsPage.open();
    prometheus = await TestPrometheus.start(program ?? '', page);
  });
  afterAll(async () => {
    await prometheus.stop();
    page.close();
  });

  test('reads one number, and fills in the run in the query', async () => {
    await expose('pool_waiting{migration="shop",side="green",stage="1"} 0.5\npool_waiting{side="blue"} 7\n');
    const one = gate('max(pool_waiting{migration="{{migration}}", side="{{side}}", stage="{{ stage }}"})');
    const decision = await ask(one, prometheus.url);
    expect(decision).toMatchObject({ outcome: 'pass', metric: 'prometheus: test' });
    expect(decision.query).toBe('max(pool_waiting{migration="shop", side="green", stage="1"})');
  });

  test.each([
    ['no series', 'nothing_like_it', 'no series'],
    ['several series', '{__name__=~"several.*"}', '2 series'],
    ['NaN', 'not_a_number', 'NaN is no measurement'],
    ['an infinite number', 'infinite', '+Inf is no measurement'],
    ['a division of zero by zero', 'sum(zero) / sum(zero)', 'NaN is no measurement'],
  ])('holds the stage at %s', async (_what, query, why) => {
    await expose('several{a="1"} 1\nseveral{a="2"} 1\nnot_a_number NaN\ninfinite +Inf\nzero 0\n');
    const decision = await ask(gate(query), prometheus.url);
    expect(decision).toMatchObject({ outcome: 'inconclusive' });
    expect(decision.because).toContain(why);
  });

  test.each([
    ['a query that is wrong', 'sum(', 'HTTP 400'],
    ['a query with a text as its answer', '"text"', 'a string as its answer'],
    ['a query with a range as its answer', 'up[1m]', 'a matrix as its answer'],
  ])('says that %s is an error', async (_what, query, why) => {
    const decision = await ask(gate(query), prometheus.url);
    expect(decision).toMatchObject({ outcome: 'error' });
    expect(decision.because).toContain(why);
  });

  test('counts are judged as a share, beside blue, and never pass on too few', async () => {
    const share = gate('sum(failed{side="{{side}}"})', { requests: 'sum(all{side="{{side}}"})', max: 0.001 });
    const counted = async (green: string, blue: string): Promise<GateDecision> => {
      const [failed, all] = green.split('/');
      const [blueFailed, blueAll] = blue.split('/');
      await expose(
        `failed{side="green"} ${failed}\nall{side="green"} ${all}\nfailed{side="blue"} ${blueFailed}\nall{side="blue"} ${blueAll}\n`,
      );
      return ask(share, prometheus.url);
    };
    expect(await counted('0/100', '0/9900')).toMatchObject({ outcome: 'inconclusive' });
    expect(await counted('0/3000', '0/297000')).toMatchObject({ outcome: 'pass' });
    const once = await counted('30/3000', '20/297000');
    expect(once.outcome).toBe('inconclusive');
    expect(once.because).toContain('a few moments fail nothing');
    expect(await counted('30/3000', '2970/297000')).toMatchObject({ outcome: 'inconclusive' });
    expect(await counted('5/3', '0/100')).toMatchObject({ outcome: 'inconclusive' });
  });

  test('a target that has died leaves nothing to pass on', async () => {
    await expose('lives 0\n');
    expect(await ask(gate('lives'), prometheus.url)).toMatchObject({ outcome: 'pass' });
    page.text = undefined;
    const before = page.asked;
    while (page.asked < before + 3) await sleep(50);
    expect(await ask(gate('lives'), prometheus.url)).toMatchObject({ outcome: 'inconclusive' });
    // Asked about a moment at which the last sample is three minutes old, which Prometheus would show by itself.
    const later = await ask(gate('lives'), prometheus.url, 60, Date.now() + 180_000);
    expect(later).toMatchObject({ outcome: 'inconclusive' });
  });

  test('a window that still holds old requests does not pass when the traffic has stopped', async () => {
    await expose('served 5000\n');
    const one = gate('vector(0)', { requests: 'sum(max_over_time(served[{{window}}]))', max: 0.001 });
    expect(await ask(one, prometheus.url, 900)).toMatchObject({ outcome: 'pass' });
    const decision = await ask(one, prometheus.url, 900, Date.now() + 200_000);
    expect(decision).toMatchObject({ outcome: 'inconclusive' });
    expect(decision.because).toContain('last 2 min');
  });

  test('a fixed range that still holds old samples does not pass when the series have ended', async () => {
    await expose('level 0\n');
    const one = gate('avg_over_time(level{of="[15m]"}[15m]) or max(avg_over_time(level[15m]))');
    const short = gate('max(avg_over_time(level[90s]))');
    expect(await ask(one, prometheus.url)).toMatchObject({ outcome: 'pass' });
    expect(await ask(short, prometheus.url)).toMatchObject({ outcome: 'pass' });
    const decision = await ask(one, prometheus.url, 60, Date.now() + 200_000);
    expect(decision).toMatchObject({ outcome: 'inconclusive' });
    expect(decision.because).toContain('within the last 2 min: no series');
  });

  test('one that is frozen is an error within its time, and one that is back is asked again', async () => {
    await expose('lives 0\n');
    await prometheus.freeze();
    const slow = await queryPrometheus({ name: 'monitoring', url: prometheus.url }, 'lives', {
      atMs: Date.now(),
      timeoutMs: 300,
    });
    expect(slow).toEqual({ kind: 'failed', why: 'monitoring has not answered within 300 ms' });
    prometheus.thaw();
    expect(await answer('vector(1)')).toEqual({ kind: 'value', value: 1 });
  });
});

describe('what answers in place of Prometheus', () => {
  const servers: Server[] = [];
  afterEach(() => {
    for (const server of servers.splice(0)) {
      server.closeAllConnections();
      server.close();
    }
  });

  async function serve(listener: RequestListener): Promise<string> {
    const server = createServer(listener);
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  test.each<[string, RequestListener, string]>([
    ['HTTP 401', (_q, r) => r.writeHead(401).end('who are you'), 'HTTP 401'],
    ['HTTP 502 with a page of a proxy', (_q, r) => r.writeHead(502).end('<html>'), 'HTTP 502'],
    [
      'a page of a login',
      (_q, r) => r.writeHead(200).end('<html>sign in</html>'),
      "not in the form of Prometheus' API",
    ],
    ['a redirect', (_q, r) => r.writeHead(302, { location: 'http://example.com/' }).end(), 'redirects (HTTP 302)'],
    ['an answer without end', (_q, r) => endless(r), 'larger than'],
    ['a connection that is cut', (q) => q.socket.destroy(), "can't be reached"],
    ['a number that is none', (_q, r) => r.end(JSON.stringify(vector('12 apples'))), 'holds no number'],
  ])('%s is an error: it neither passes nor fails', async (_what, listener, why) => {
    const decision = await ask(gate('up'), await serve(listener));
    expect(decision).toMatchObject({ outcome: 'error' });
    expect(decision.because).toContain(why);
    expect(decision.because).not.toContain('127.0.0.1');
  });

  test('nothing that listens is an error', async () => {
    const decision = await ask(gate('up'), 'http://127.0.0.1:1');
    expect(decision).toMatchObject({ outcome: 'error' });
    expect(decision.because).toContain('monitoring');
  });

  test('an answer with warnings may be incomplete, and holds', async () => {
    const url = await serve((_q, r) => r.end(JSON.stringify({ ...vector('0'), warnings: ['a store is away'] })));
    expect(await ask(gate('up'), url)).toMatchObject({ outcome: 'inconclusive' });
  });

  describe('and the preflight, which asks every gate once:', () => {
    const found = async (traffic: PlanInput['traffic'], environment: Record<string, string>): Promise<string[]> => {
      const plan = planSchema.parse({ name: 'shop', blue: { connection: 'b' }, green: { connection: 'g' }, traffic });
      const findings = await checkGateSources(plan, environment);
      return findings.map(({ severity, check, object, message, remedy }) =>
        [severity, check, object, message, remedy].join(' | '),
      );
    };
    const asked = gate('fails{side="{{side}}", stage="{{stage}}"}');
    const variable = 'VERDIGRIS_CONNECTION_MONITORING';

    test('a connection that the worker does not know, or that nobody answers, is an error; a dry run is warned of', async () => {
      expect(await found({ gates: [asked] }, {})).toEqual([
        expect.stringMatching(
          /^error . gate-source . prometheus: test . .*knows no connection "monitoring" . set VERDI/,
        ),
      ]);
      expect(await found({ gates: [asked] }, { [variable]: 'http://127.0.0.1:1' })).toEqual([
        expect.stringMatching(
          /^error . gate-source .*can't be reached.*worker reaches Prometheus by VERDI\w+_MONITORING/,
        ),
      ]);
      expect(await found({ gates: [{ ...asked, dryRun: true }] }, {})).toEqual([expect.stringMatching(/^warning/)]);
      // Without a stage nobody asks.
      expect(await found({ gates: [asked], stages: [{ percent: 0, for: '1s' }] }, {})).toEqual([]);
    });

    test('a query that is refused is an error, one without series yet a warning, and each is asked for both sides', async () => {
      const queries: string[] = [];
      let answer: (query: string) => object = () => vector('1');
      const url = await serve((request, response) => {
        let body = '';
        request.on('data', (part: Buffer) => (body += part.toString()));
        request.on('end', () => {
          const query = new URLSearchParams(body).get('query') ?? '';
          if (query !== 'time()') queries.push(query);
          response.end(JSON.stringify(answer(query)));
        });
      });
      const ofGate = (): Promise<string[]> => found({ gates: [asked] }, { [variable]: url });
      expect(await ofGate()).toEqual([]);
      expect(queries.sort()).toEqual(['fails{side="blue", stage="1"}', 'fails{side="green", stage="1"}']);
      answer = (query) =>
        query.includes('green') ? { ...vector('1'), data: { resultType: 'vector', result: [] } } : vector('1');
      expect(await ofGate()).toEqual([expect.stringMatching(/^warning . gate-source .* . query: no series/)]);
      answer = () => ({ status: 'error', error: 'parse error' });
      expect(await ofGate()).toEqual([expect.stringMatching(/^error . gate-source .*refused the query.*parse error/)]);
    });

    test('a run is refused by it', async () => {
      const plan = planSchema.parse({
        ...{ name: 'shop', blue: { connection: 'b' }, green: { connection: 'g' } },
        traffic: { gates: [asked], scrape: ['pages'] },
      });
      const nowhere = 'postgres://u:p@127.0.0.1:1/d';
      const environment = { VERDIGRIS_CONNECTION_B: nowhere, VERDIGRIS_CONNECTION_G: nowhere };
      const activities = preflightActivities({ environment, redact: (text) => text });
      const run = new MockActivityEnvironment().run(() => activities.preflight({ plan, runId: 'r' }));
      await expect(run).rejects.toMatchObject({
        type: 'PreflightFailed',
        message: expect.stringMatching(/\(gate-source\)[^]*\(metrics-page\)/) as string,
      });
    });

    test('a metrics page that is not known is an error, one that is silent or of another form a warning', async () => {
      const scrape = { gates: [{ metric: 'lag' as const, max: '1s' }], scrape: ['pages'] };
      expect(await found(scrape, {})).toEqual([
        expect.stringMatching(/^error . metrics-page . pages . .*knows no connection "pages"/),
      ]);
      const other = await serve((_q, r) => r.end('up 1\n'));
      expect(await found(scrape, { VERDIGRIS_CONNECTION_PAGES: `${other} http://127.0.0.1:1` })).toEqual([
        expect.stringMatching(/^warning . metrics-page .*address 2 of 2. can't be reached/),
        expect.stringMatching(/^warning . metrics-page .*address 1 of 2.: not the metrics of a router/),
      ]);
    });
  });

  test('is asked for the moment that Prometheus says it is: the clock of a worker may be hours off', async () => {
    const moments: (string | null)[] = [];
    const url = await serve((request, response) => {
      let body = '';
      request.on('data', (part: Buffer) => (body += part.toString()));
      request.on('end', () => {
        const form = new URLSearchParams(body);
        moments.push(form.get('time'));
        const scalar = { status: 'success', data: { resultType: 'scalar', result: [7, '1000000000.25'] } };
        response.end(JSON.stringify(form.get('query') === 'time()' ? scalar : vector('0')));
      });
    });
    const bySide = gate('fails{side="{{side}}"}', { requests: 'all{side="{{side}}"}' });
    const scope = { migration: 'shop', stage: 1, windowSeconds: 60 };
    const measured = await measurePrometheus({ name: 'monitoring', url }, bySide, scope);
    expect(measured).toMatchObject({ green: { value: 0 }, requests: { value: 0 }, blue: { value: 0 } });
    expect(moments).toEqual([null, ...Array<string>(4).fill('1000000000.250')]);
  });

  test('that does not tell its time has not answered, whatever is asked', async () => {
    const url = await serve((_request, response) => response.writeHead(503).end('starting'));
    const bySide = gate('fails{side="{{side}}"}', { requests: 'all{side="{{side}}"}' });
    const measured = await measurePrometheus({ name: 'monitoring', url }, bySide, {
      ...{ migration: 'shop', stage: 1, windowSeconds: 60 },
    });
    expect(Object.values(measured).map((one: unknown) => (one as PrometheusAnswer).kind)).toEqual([
      ...Array<string>(4).fill('failed'),
      undefined,
    ]);
  });

  test('a secret goes to the address alone, in a header', async () => {
    const seen: (string | undefined)[] = [];
    const url = await serve((request, response) => {
      seen.push(request.headers.authorization);
      response.end(JSON.stringify(vector('0')));
    });
    await queryPrometheus({ name: 'monitoring', url, authorization: 'Bearer key' }, 'up', { atMs: 0 });
    expect(seen).toEqual(['Bearer key']);
  });
});

function vector(value: string): object {
  return { status: 'success', data: { resultType: 'vector', result: [{ metric: {}, value: [1, value] }] } };
}

function endless(response: Parameters<RequestListener>[1]): void {
  const more = (): void => {
    while (response.write('x'.repeat(65_536))) continue;
  };
  response.on('drain', more);
  more();
}
