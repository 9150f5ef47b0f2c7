import { setTimeout as sleep } from 'node:timers/promises';
import { askedIn } from '../src/gates/asked-in.js';
import type { GateInput, GateSource } from '../src/gates/decide.js';
import { leavesBlueTooFew } from '../src/gates/baseline.js';
import { MARKER_EVERY_MS, markerTimeoutMs } from '../src/gates/decide-lag.js';
import { isPostgresGate } from '../src/gates/decide-postgres.js';
import { holdOf, latelyAfter, NOTHING_YET, type Lately } from '../src/gates/lately.js';
import { readPostgres } from '../src/gates/postgres-source.js';
import type { PostgresSamples } from '../src/gates/postgres-series.js';
import type { KnownCounts, PrometheusMeasurement, PrometheusSeries } from '../src/gates/prometheus-measurement.js';
import { measureStage } from '../src/gates/prometheus-stage.js';
import type { RouterSnapshots } from '../src/gates/router-snapshot.js';
import { Slices, type SlicesState } from '../src/gates/slices.js';
import { windowBetween, type GateWindow } from '../src/gates/window.js';
import { parseDuration } from '../src/plan/duration.js';
import type { Gate, Plan, Stage } from '../src/plan/schema.js';
import { measureLag } from '../src/postgres/marker.js';
import type { Environment } from '../src/worker/connections.js';
import { httpEndpoint } from '../src/worker/http-endpoints.js';
import type { BlueNumbers } from './prometheus-before.js';
import { Repeated } from './repeated.js';
import { routerReader } from './router-reader.js';
import { SourceSessions } from './source-sessions.js';
import type { Verdict } from './stage-verdict.js';
import type { Work } from './context.js';

/** What is written down when a stage opens: what its window is measured from. */
export interface StageBaseline {
  readonly openedAt: string;
  readonly sample: RouterSnapshots;
  /** The route of this opening; left out by versions that did not write it down. */
  readonly route?: { readonly epoch: number; readonly generation: number };
  readonly postgres?: PostgresSamples;
  /** Transactions a second of both sides before the first reads moved. */
  readonly volumeBefore?: number;
  /** When they were counted, by blue's clock, ms since 1970; left out by versions that did not keep it. */
  readonly volumeBeforeAtMs?: number;
  /** Blue's numbers for the `prometheus` gates that compare with them, by their place in the plan. */
  readonly prometheusBefore?: BlueNumbers;
}

/** What the gates of a stage have seen so far: a worker that takes over goes on from it. */
export interface StageEvidence {
  readonly openedAt: string;
  /** The end of the last complete slice. */
  readonly until: RouterSnapshots;
  readonly slices: SlicesState;
  /** The last look at the gates, by blue's clock, ISO 8601; left out by versions that did not keep it. */
  readonly lookedAt?: string;
  /** When they were looked at again after a while in which nobody had; left out where there was none. */
  readonly resumedAt?: string;
  /** What the last moments were like; left out by versions that did not keep it. */
  readonly lately?: Lately;
  /** The counters of `prometheus` gates, by the place of these in the plan; left out by versions that did not keep them. */
  readonly counters?: Readonly<Record<number, KnownCounts>>;
  /** The verdict by which the stage has failed: it stays one, whatever is seen afterwards. */
  readonly failed?: Verdict;
}

const ROUTERS_EVERY_MS = 500;
const POSTGRES_EVERY_MS = 2_000;
const PROMETHEUS_EVERY_MS = 5_000;
/** Routers report once a second, Prometheus may take 5 s to answer. */
const SILENT_AFTER_MS = 15_000;
/** A gate fails on no single piece of this length: long enough for a checkpoint or a failover of a load balancer. */
const SLICE_MS = 5_000;
/** Measurements of Prometheus that gates are shown: four hours of them, as evidence is what was added by each. */
const PROMETHEUS_KEPT = 2_880;
/** Samples that gates are shown: of the lag, and of the servers, whose rates are means over some of them. */
const KEPT = 40;
/** The first look waits so long for the sources. */
const LOOK_WITHIN_MS = 2_000;

/** What is asked about a stage, and where. */
export interface StageAsked {
  readonly stage: Stage;
  readonly baseline: StageBaseline;
  readonly environment: Environment;
  /** The clock by which the stage was opened, ms since 1970. */
  readonly blueNow: () => number;
  /** What another worker has seen of it. */
  readonly before?: StageEvidence | undefined;
  /** Default: 5,000. */
  readonly prometheusEveryMs?: number | undefined;
}

/** Asks every source of a stage's gates, again and again, until it is closed. */
export class StageMeasurements {
  private readonly stage: Stage;
  private readonly baseline: StageBaseline;
  readonly #stop = new AbortController();
  readonly #sessions: SourceSessions;
  readonly #routers: Repeated<RouterSnapshots>;
  readonly #lag: Repeated<number>;
  readonly #postgres: Repeated<PostgresSamples> | undefined;
  readonly #prometheus: ReadonlyMap<Gate, Repeated<PrometheusMeasurement>>;
  #counters: Readonly<Record<number, KnownCounts>>;
  readonly #slices: Slices<GateWindow>;
  #sliceFrom: RouterSnapshots;
  /** Up to the end of the last complete slice. */
  #lately: Lately;
  #keptSlices: number;
  #markerSince: number | undefined;

  constructor(
    work: Work,
    private readonly plan: Plan,
    asked: StageAsked,
  ) {
    const { stage, baseline, environment, blueNow, before, prometheusEveryMs = PROMETHEUS_EVERY_MS } = asked;
    this.stage = stage;
    this.baseline = baseline;
    // Of this opening of the stage, not of one before a pause.
    const known = before?.openedAt === baseline.openedAt ? before : undefined;
    this.#slices = new Slices<GateWindow>([], known?.slices);
    this.#sliceFrom = known?.until ?? baseline.sample;
    this.#lately = known?.lately ?? NOTHING_YET;
    this.#counters = known?.counters ?? {};
    this.#keptSlices = this.#slices.complete;
    const { name, traffic } = plan;
    const gates = askedIn(traffic.gates, stage);
    const { signal } = this.#stop;
    this.#sessions = new SourceSessions(work.databases, signal);
    const common = { keep: KEPT, silentAfterMs: SILENT_AFTER_MS, signal };
    const readRouters = routerReader(plan, environment, this.#sliceFrom, signal, blueNow);
    this.#routers = new Repeated({
      ...{ ...common, keep: 1, everyMs: ROUTERS_EVERY_MS },
      measure: this.#sessions.asking('gates', readRouters),
    });
    const lagTimeout = lagTimeoutOf(plan);
    this.#lag = new Repeated({
      ...{ ...common, everyMs: MARKER_EVERY_MS, silentAfterMs: lagTimeout + SILENT_AFTER_MS },
      measure: this.#sessions.asking('lag', async (session) => {
        const [blue, green] = [await session('blue'), await session('green')];
        this.#markerSince = performance.now();
        try {
          return await measureLag(blue, green, 'to_green', lagTimeout, signal);
        } finally {
          this.#markerSince = undefined;
        }
      }),
    });
    this.#postgres = gates.some(isPostgresGate)
      ? new Repeated({
          ...{ ...common, everyMs: POSTGRES_EVERY_MS },
          measure: this.#sessions.asking('gates of the servers', async (session) =>
            readPostgres({ blue: await session('blue'), green: await session('green') }, name),
          ),
        })
      : undefined;
    this.#prometheus = new Map(
      gates.flatMap((gate) => {
        if (gate.metric !== 'prometheus') return [];
        const place = traffic.gates.indexOf(gate);
        const kept = known?.counters?.[place];
        let before: PrometheusMeasurement | undefined;
        const measure = async (): Promise<PrometheusMeasurement> => {
          const endpoint = httpEndpoint(`the gate "${gate.name}"`, gate.connection, environment);
          const windowSeconds = (blueNow() - Date.parse(baseline.openedAt)) / 1_000;
          const scope = { migration: name, stage: stage.percent, signal, windowSeconds };
          before = await measureStage(endpoint, gate, scope, { before, kept, blueBefore: this.#blueBefore(gate) });
          const { opening, counted } = before;
          if (opening !== undefined && counted !== undefined) {
            this.#counters = { ...this.#counters, [place]: { opening, counted } };
          }
          return before;
        };
        return [
          [gate, new Repeated({ ...common, keep: PROMETHEUS_KEPT, everyMs: prometheusEveryMs, measure })] as const,
        ];
      }),
    );
  }

  /** Settles when every source has been asked once, or the slowest of them takes too long. */
  async ready(): Promise<void> {
    const sources = [
      this.#routers,
      this.#lag,
      ...(this.#postgres === undefined ? [] : [this.#postgres]),
      ...this.#prometheus.values(),
    ];
    await Promise.race([Promise.all(sources.map((source) => source.first)), sleep(LOOK_WITHIN_MS)]);
  }

  /** All that is known now. */
  input(): GateInput & { readonly at: string } {
    const { sample: opened, postgres: atOpening, volumeBefore, volumeBeforeAtMs } = this.baseline;
    const now = this.#routers.values.at(-1);
    const failures: Partial<Record<GateSource, string>> = {};
    const failed = (source: GateSource, why: string | undefined): void => {
      if (why !== undefined) failures[source] = why;
    };
    failed('routers', this.#routers.failure);
    failed('lag', this.#lag.failure);
    failed('postgres', this.#postgres?.failure);
    const window = windowBetween(opened, now ?? opened);
    return {
      at: now?.at ?? new Date().toISOString(),
      window,
      slices: this.#slices,
      hold: now === undefined ? undefined : this.#holdAt(now, window),
      lagMs: this.#lagSeries(),
      ...(this.#postgres === undefined || atOpening === undefined || this.#postgres.values.length === 0
        ? {}
        : { postgres: { atOpening, samples: this.#postgres.values, volumeBefore, volumeBeforeAtMs } }),
      prometheus: new Map([...this.#prometheus].map(([gate, source]) => [gate, this.#seriesOf(gate, source)])),
      failures,
    };
  }

  /** What has been seen since it was last asked for; undefined when no slice has been completed. */
  newEvidence(): StageEvidence | undefined {
    if (this.#slices.complete === this.#keptSlices) return undefined;
    this.#keptSlices = this.#slices.complete;
    return this.evidence();
  }

  /** All that has been seen. */
  evidence(): StageEvidence {
    const { at, live, stale, unreadable } = this.#sliceFrom;
    return {
      openedAt: this.baseline.openedAt,
      until: { at, live, stale, unreadable },
      slices: this.#slices.state(),
      lately: this.#lately,
      ...(Object.keys(this.#counters).length === 0 ? {} : { counters: this.#counters }),
    };
  }

  async close(): Promise<void> {
    this.#stop.abort(new Error('the gates are no longer watched'));
    await this.#sessions.close();
  }

  /** A marker that is on its way is late already when it has taken longer than the last one that arrived. */
  #lagSeries(): number[] {
    const arrived = [...this.#lag.values];
    const pending = this.#markerSince === undefined ? 0 : performance.now() - this.#markerSince;
    return pending > Math.max(MARKER_EVERY_MS, arrived.at(-1) ?? 0) ? [...arrived, pending] : arrived;
  }

  #blueBefore(gate: Gate): number | undefined {
    if (!leavesBlueTooFew(this.stage.percent)) return undefined;
    return this.baseline.prometheusBefore?.[this.plan.traffic.gates.indexOf(gate)]?.value;
  }

  #seriesOf(gate: Gate, { values, failure }: Repeated<PrometheusMeasurement>): PrometheusSeries {
    const blueBefore = this.#blueBefore(gate);
    return {
      measured: values,
      leavesBlueTooFew: leavesBlueTooFew(this.stage.percent),
      ...(failure === undefined ? {} : { failure }),
      ...(blueBefore === undefined ? {} : { blueBefore }),
    };
  }

  /** Takes up what was counted since the last complete slice. @returns what keeps all that was counted from passing */
  #holdAt(now: RouterSnapshots, window: GateWindow): string | undefined {
    const from = this.#sliceFrom;
    const slice = windowBetween(from, now);
    const lately = latelyAfter(this.#lately, from, now, slice);
    if (Date.parse(now.at) - Date.parse(from.at) < SLICE_MS) {
      this.#slices.current = slice;
    } else {
      this.#slices.append(slice);
      this.#sliceFrom = now;
      this.#lately = lately;
    }
    const { instances, scrape } = this.plan.traffic;
    // Metrics pages are not instances: several may stand behind one.
    const atLeast = scrape === undefined ? instances?.atLeast : undefined;
    return holdOf({ lately, window, opened: this.baseline.sample, now, atLeast });
  }
}

/** By the largest limit, where there are several. */
function lagTimeoutOf({ traffic }: Plan): number {
  return markerTimeoutMs(
    Math.max(0, ...traffic.gates.flatMap((gate) => (gate.metric === 'lag' ? [parseDuration(gate.max)] : []))),
  );
}
