import { numberOf } from './exposition.js';
import { ask, type HttpEndpoint } from './http-source.js';

/** What Prometheus says to one query. Plain data. */
export type PrometheusAnswer =
  | { readonly kind: 'value'; readonly value: number }
  /** It has answered, and nothing can be concluded from it. */
  | { readonly kind: 'unclear'; readonly why: string; /** It knows no series of that kind. */ readonly isEmpty?: true }
  /** It has not answered, or refused. */
  | { readonly kind: 'failed'; readonly why: string };

export interface QueryOptions {
  /** Evaluation time, ms since 1970. Default: now, by the clock of Prometheus, since a worker's may be hours off. */
  readonly atMs?: number | undefined;
  /** Samples that are older than this, s, are none. Default: STALE_AFTER_SECONDS. */
  readonly lookBackSeconds?: number | undefined;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** A gate looks every half second; a query that takes longer than this is of no use to it. */
const TIMEOUT_MS = 5_000;
/** One number with its labels has a few hundred bytes. */
const MAX_BYTES = 1_000_000;
/** A series without a sample for so long is gone. Prometheus' own default of 5 min would show a target that has died. */
export const STALE_AFTER_SECONDS = 120;

/** Asks for one number. Never throws, but for the signal's reason. */
export async function queryPrometheus(
  endpoint: HttpEndpoint,
  query: string,
  { atMs, lookBackSeconds = STALE_AFTER_SECONDS, timeoutMs = TIMEOUT_MS, signal }: QueryOptions = {},
): Promise<PrometheusAnswer> {
  try {
    const { status, body } = await ask(endpoint, {
      path: '/api/v1/query',
      form: {
        query,
        ...(atMs === undefined ? {} : { time: (atMs / 1_000).toFixed(3) }),
        timeout: `${timeoutMs}ms`,
        lookback_delta: `${lookBackSeconds}s`,
      },
      timeoutMs,
      maxBytes: MAX_BYTES,
      ...(signal === undefined ? {} : { signal }),
    });
    return readAnswer(endpoint.name, status, body);
  } catch (error) {
    signal?.throwIfAborted();
    return failed(error instanceof Error ? error.message : String(error));
  }
}

/** What an answer means: https://prometheus.io/docs/prometheus/latest/querying/api/ */
export function readAnswer(name: string, status: number, body: string): PrometheusAnswer {
  const answer = parseJson(body);
  if (!isRecord(answer)) return failed(`${name} answered HTTP ${status}, and not in the form of Prometheus' API`);
  if (status !== 200 || answer['status'] !== 'success') {
    const said = typeof answer['error'] === 'string' ? `: ${answer['error'].slice(0, 300)}` : '';
    return failed(`${name} refused the query (HTTP ${status})${said}`);
  }
  // Such as Thanos gives when a part of the data can't be read.
  const warnings = answer['warnings'];
  if (Array.isArray(warnings) && warnings.length > 0) {
    return unclear(`${name} warns that its answer may be incomplete: ${String(warnings[0]).slice(0, 200)}`);
  }
  const data = answer['data'];
  const type = isRecord(data) ? data['resultType'] : undefined;
  const result = isRecord(data) ? data['result'] : undefined;
  if (!Array.isArray(result) || (type !== 'vector' && type !== 'scalar')) {
    return failed(`the query has a ${String(type)} as its answer: write one with a number`);
  }
  if (type === 'scalar') return valueOf(result);
  if (result.length === 0) {
    return { ...unclear('no series: nothing matches the query, or it has no samples any more'), isEmpty: true };
  }
  if (result.length > 1) {
    return unclear(`${result.length} series: write a query with one number, with sum(...) around it for example`);
  }
  const series: unknown = result[0];
  return valueOf(isRecord(series) ? series['value'] : undefined);
}

function valueOf(pair: unknown): PrometheusAnswer {
  const text: unknown = Array.isArray(pair) ? pair[1] : undefined;
  const value = numberOf(typeof text === 'string' ? text : undefined);
  if (value === undefined) return failed('the answer holds no number');
  if (!Number.isFinite(value)) return unclear(`${text as string} is no measurement`);
  return { kind: 'value', value };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function failed(why: string): PrometheusAnswer {
  return { kind: 'failed', why };
}

function unclear(why: string): Extract<PrometheusAnswer, { kind: 'unclear' }> {
  return { kind: 'unclear', why };
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}
