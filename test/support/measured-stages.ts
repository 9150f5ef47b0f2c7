import type { Work } from '../../activities/context.js';
import { StageMeasurements, type StageBaseline, type StageEvidence } from '../../activities/stage-measurements.js';
import { judge, type Verdict } from '../../activities/stage-verdict.js';
import { scrapeRouters } from '../../src/gates/scrape-source.js';
import type { Plan } from '../../src/plan/schema.js';
import { databasesOf, type Environment } from '../../src/worker/connections.js';
import { httpEndpoints } from '../../src/worker/http-endpoints.js';
import type { StageSources } from './stage-sources.js';

const STAGE = { percent: 10, for: '1m' };

/** What is measured of a stage of 10 %, without a database. */
export class MeasuredStages {
  readonly #opened: StageMeasurements[] = [];

  constructor(private readonly sources: StageSources) {}

  #environment(): Environment {
    return {
      ...this.sources.variables,
      VERDIGRIS_CONNECTION_B: 'postgres://u:p@127.0.0.1:1/b',
      VERDIGRIS_CONNECTION_G: 'postgres://u:p@127.0.0.1:1/g',
    };
  }

  async opening(): Promise<StageBaseline> {
    const targets = httpEndpoints('traffic.scrape', 'routers', this.#environment());
    const sample = await scrapeRouters(targets, undefined);
    return { openedAt: sample.at, sample };
  }

  async measure(plan: Plan, open?: StageBaseline, before?: StageEvidence): Promise<StageMeasurements> {
    const baseline = open ?? (await this.opening());
    const work: Work = {
      databases: databasesOf(plan, this.#environment()),
      run: { runId: 'r', migration: plan.name },
      signal: new AbortController().signal,
      report: () => undefined,
      session: () => Promise.reject(new Error('no database')),
      asOwner: () => Promise.reject(new Error('no database')),
    };
    const measurements = new StageMeasurements(work, plan, {
      stage: STAGE,
      baseline,
      environment: this.#environment(),
      blueNow: Date.now,
      before,
      prometheusEveryMs: 1_000,
    });
    this.#opened.push(measurements);
    await measurements.ready();
    return measurements;
  }

  async close(): Promise<void> {
    await Promise.all(this.#opened.splice(0).map((one) => one.close()));
  }
}

export function said(plan: Plan, measurements: StageMeasurements): Verdict {
  const input = measurements.input();
  return judge(plan.traffic, STAGE, input.at, input);
}
