import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { planSchema, type Plan, type PlanInput } from '../../src/plan/schema.js';
import { RequestMetrics } from '../../src/router/metrics.js';
import type { Environment } from '../../src/worker/connections.js';
import { MIGRATION } from '../router/sides.js';
import { MetricsPage } from './prometheus.js';

/** Its clock, s since 1970: nobody else's. It runs as fast as these stages ask, every second in place of five. */
const clock = (): string => String(1_000_000_000.5 + (5 * performance.now()) / 1_000);

/** Answers queries as Prometheus does, with what the test has written down; others have no series. */
export class Answers {
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
export class RouterPage {
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

/** What the gates of a stage ask: a Prometheus, and a page of a router. */
export class StageSources {
  private constructor(
    readonly answers: Answers,
    readonly router: RouterPage,
  ) {}

  static async open(): Promise<StageSources> {
    const answers = await Answers.open();
    const router = new RouterPage(await MetricsPage.open());
    await router.follows(1, 1);
    return new StageSources(answers, router);
  }

  get variables(): Environment {
    return {
      VERDIGRIS_CONNECTION_HERE: this.answers.url,
      VERDIGRIS_CONNECTION_ROUTERS: this.router.page.url,
    };
  }

  close(): void {
    this.answers.close();
    this.router.page.close();
  }
}

export function planWith(traffic: PlanInput['traffic']): Plan {
  return planSchema.parse({
    ...{ name: MIGRATION, blue: { connection: 'b' }, green: { connection: 'g' } },
    traffic: { scrape: ['routers'], ...traffic },
  });
}

/** A gate that compares green with blue. */
export const RISE = {
  metric: 'prometheus',
  ...{ name: 'seconds', connection: 'here', query: 'seconds_{{side}}', maxIncrease: 5 },
} as const;
