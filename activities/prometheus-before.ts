import { leavesBlueTooFew } from '../src/gates/baseline.js';
import type { HttpEndpoint } from '../src/gates/http-source.js';
import { fillTemplate, requestsPerSecondNow, type PrometheusGate } from '../src/gates/prometheus-measurement.js';
import { queryPrometheus } from '../src/gates/prometheus-query.js';
import { VerdigrisError } from '../src/errors.js';
import type { Gate, Plan } from '../src/plan/schema.js';
import { readProgress, writeProgress, type ProgressKey } from '../src/postgres/migrate/progress-row.js';
import type { Session } from '../src/postgres/session.js';
import type { Environment } from '../src/worker/connections.js';
import { httpEndpoint } from '../src/worker/http-endpoints.js';
import type { Work } from './context.js';

/** Blue's numbers, by the place of their gates in the plan. */
export type BlueNumbers = Readonly<Record<number, { readonly value: number; readonly at: string }>>;

/** The window of blue's number: the reads of a few minutes, and not those of another time of the day. */
const WINDOW_SECONDS = 300;

/**
 * Blue's numbers for the gates that compare with them, measured before a stage opens, while blue still has reads, and
 * kept: a stage that takes nearly all of them away leaves nothing to compare with. A number that can't be had now is the
 * one of an earlier stage. undefined where no gate compares.
 */
export async function blueBeforeStage(
  { run, signal, report }: Work,
  blue: Session,
  plan: Plan,
  greenReadPercent: number,
  environment: Environment,
): Promise<BlueNumbers | undefined> {
  const gates = plan.traffic.gates.flatMap((gate, place) =>
    gate.metric === 'prometheus' && gate.maxIncrease !== undefined ? [{ gate, place }] : [],
  );
  if (gates.length === 0) return undefined;
  const key: ProgressKey = { runId: run.runId, step: 'stage', object: 'blue before, by Prometheus' };
  const known = (await readProgress<BlueNumbers>(blue, key))?.state ?? {};
  if (leavesBlueTooFew(greenReadPercent)) return known;
  report({ measuring: "blue's numbers of now, to compare with them later" });
  const measured = await Promise.all(
    gates.map(async ({ gate, place }) => {
      const value = await numberOfBlue(gate, plan.name, greenReadPercent, environment, signal);
      return value === undefined ? [] : [[place, { value, at: new Date().toISOString() }] as const];
    }),
  );
  const numbers: BlueNumbers = { ...known, ...Object.fromEntries(measured.flat()) };
  await writeProgress(blue, key, numbers, true);
  return numbers;
}

/** Requests a second that the plan's `prometheus` gates count now, where Prometheus can say it. */
export async function requestsBefore(
  { name, traffic }: Plan,
  environment: Environment,
  signal: AbortSignal,
): Promise<ReadonlyMap<Gate, number>> {
  const scope = { migration: name, stage: 0, windowSeconds: WINDOW_SECONDS, signal };
  const known = await Promise.all(
    traffic.gates.map(async (gate) => {
      const endpoint = gate.metric === 'prometheus' ? endpointOf(gate, environment) : undefined;
      if (gate.metric !== 'prometheus' || endpoint === undefined) return [];
      const perSecond = await requestsPerSecondNow(endpoint, gate, scope);
      return perSecond === undefined ? [] : [[gate, perSecond] as const];
    }),
  );
  return new Map(known.flat());
}

/** undefined where there is no number: what is wrong is said by the gate, which is asked in a moment. */
async function numberOfBlue(
  gate: PrometheusGate,
  migration: string,
  stage: number,
  environment: Environment,
  signal: AbortSignal,
): Promise<number | undefined> {
  const endpoint = endpointOf(gate, environment);
  if (endpoint === undefined) return undefined;
  const query = fillTemplate(gate.query, { migration, stage, windowSeconds: WINDOW_SECONDS }, 'blue');
  const answer = await queryPrometheus(endpoint, query, { signal });
  return answer.kind === 'value' ? answer.value : undefined;
}

function endpointOf(gate: PrometheusGate, environment: Environment): HttpEndpoint | undefined {
  try {
    return httpEndpoint(`the gate "${gate.name}"`, gate.connection, environment);
  } catch (error) {
    if (!(error instanceof VerdigrisError)) throw error;
    return undefined;
  }
}
