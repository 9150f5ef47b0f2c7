import { VerdigrisError } from '../errors.js';
import type { Plan } from '../plan/schema.js';
import type { PreflightFinding } from '../postgres/preflight/finding.js';
import { connectionVariable } from '../postgres/session.js';
import type { Environment } from '../worker/connections.js';
import { httpEndpoint, httpEndpoints } from '../worker/http-endpoints.js';
import { gateLabel } from './gate-label.js';
import type { HttpEndpoint } from './http-source.js';
import { measurePrometheus, type PrometheusGate, type PrometheusMeasurement } from './prometheus-measurement.js';
import { scrapeRouters } from './scrape-source.js';

/** The checks of what gates ask beside the databases, by name; docs/preflight.md has a row for each. */
export const GATE_CHECKS = ['gate-source', 'metrics-page'] as const;

/** As the gate asks in a stage that has been open for so long. */
const WINDOW_SECONDS = 300;

/** Asks everything once that gates and metrics pages will be asked for, hours later, in the first stage. */
export async function checkGateSources(
  plan: Plan,
  environment: Environment,
  signal?: AbortSignal,
): Promise<PreflightFinding[]> {
  const { stages, gates, scrape = [] } = plan.traffic;
  const stage = stages.find(({ percent }) => percent > 0)?.percent;
  const asked = stage === undefined ? [] : gates.filter((gate) => gate.metric === 'prometheus');
  const found = await Promise.all([
    ...asked.map((gate) => checkGate(gate, plan.name, stage ?? 0, environment, signal)),
    ...scrape.map((connection) => checkPages(connection, environment, signal)),
  ]);
  return found.flat();
}

async function checkGate(
  gate: PrometheusGate,
  migration: string,
  stage: number,
  environment: Environment,
  signal: AbortSignal | undefined,
): Promise<PreflightFinding[]> {
  const found = { check: 'gate-source', side: 'both', object: gateLabel(gate) } as const;
  // A dry run holds nothing, so what it lacks holds nothing up.
  const severity = gate.dryRun === true ? 'warning' : 'error';
  const endpoint = resolved(() => httpEndpoint(`the gate "${gate.name}"`, gate.connection, environment));
  if ('remedy' in endpoint) return [{ ...found, ...endpoint, severity }];
  const measured = await measurePrometheus(endpoint.value, gate, {
    ...{ migration, stage, windowSeconds: WINDOW_SECONDS },
    ...(signal === undefined ? {} : { signal }),
  });
  const answers = answersOf(measured);
  const failed = answers.find(({ kind }) => kind === 'failed');
  if (failed !== undefined) {
    const remedy = `See that the worker reaches Prometheus by VERDIGRIS_CONNECTION_${connectionVariable(gate.connection)}, or mend the query of "${gate.name}"`;
    return [{ ...found, severity, message: failed.why, remedy }];
  }
  const unclear = answers.find(({ kind }) => kind === 'unclear');
  if (unclear === undefined) return [];
  return [
    {
      ...{ ...found, severity: 'warning' as const },
      message: `${unclear.of}: ${unclear.why}; while it is so, the gate can't decide and holds the stage`,
      remedy: 'Nothing, where this is so only because green has no requests yet; otherwise mend the query',
    },
  ];
}

interface Answer {
  readonly of: string;
  readonly kind: 'failed' | 'unclear';
  readonly why: string;
}

/** What is missing among the answers; blue's first, as it has its traffic already. */
function answersOf({ green, requests, blue, blueRequests, recent }: PrometheusMeasurement): Answer[] {
  const all = [
    { of: 'query for blue', answer: blue },
    { of: 'requests for blue', answer: blueRequests },
    { of: 'query', answer: green },
    { of: 'requests', answer: requests },
    { of: 'within the last 2 min', answer: recent },
  ];
  return all.flatMap(({ of, answer }) =>
    answer === undefined || answer.kind === 'value' ? [] : [{ of, kind: answer.kind, why: answer.why }],
  );
}

/** Pages that show nothing are a warning: the application may be started with its routers later. */
async function checkPages(
  connection: string,
  environment: Environment,
  signal: AbortSignal | undefined,
): Promise<PreflightFinding[]> {
  const found = { check: 'metrics-page', side: 'both', object: connection } as const;
  const endpoints = resolved(() => httpEndpoints('traffic.scrape', connection, environment));
  if ('remedy' in endpoints) return [{ ...found, ...endpoints, severity: 'error' }];
  const { unreachable = [], unreadable } = await scrapeRouters(endpoints.value, undefined, signal);
  return [...unreachable, ...unreadable].map((message) => ({
    ...{ ...found, severity: 'warning' as const, message },
    remedy:
      'See that each address is the metrics page of a router; every one of them must answer before a stage passes',
  }));
}

type Unknown = Pick<PreflightFinding, 'message' | 'remedy'>;

function resolved<T extends HttpEndpoint | HttpEndpoint[]>(find: () => T): { readonly value: T } | Unknown {
  try {
    return { value: find() };
  } catch (error) {
    if (!(error instanceof VerdigrisError)) throw error;
    return { message: error.what, remedy: error.nextStep };
  }
}
