import { PART_OF_GREEN } from './baseline.js';
import { decideGauge } from './decide-gauge.js';
import type { Piece, Pieces } from './persistent-evidence.js';
import type { PrometheusGate, PrometheusMeasurement, PrometheusSeries } from './prometheus-measurement.js';
import type { PrometheusAnswer } from './prometheus-query.js';
import { count, inconclusive, judgeShare, type ShareVerdict } from './share.js';
import { Slices } from './slices.js';

/** Answers `prometheus` from what has been measured. */
export function decidePrometheus(gate: PrometheusGate, series: PrometheusSeries): ShareVerdict {
  const { measured, blueBefore } = series;
  const now = measured.at(-1);
  if (now === undefined) return inconclusive('Prometheus has not been asked yet');
  const trouble = troubleIn(gate, now, blueBefore);
  if (trouble !== undefined) return trouble;
  return gate.requests === undefined ? decideValue(gate, series) : decideCounts(gate, now, measured);
}

/** What keeps a measurement from meaning anything. Blue may have no reads any more: then it is not asked about now. */
function troubleIn(
  gate: PrometheusGate,
  { green, requests, blue, recent }: PrometheusMeasurement,
  blueBefore: number | undefined,
): ShareVerdict | undefined {
  const needsBlue = gate.maxIncrease !== undefined && blueBefore === undefined;
  const needed = [green, requests, recent, needsBlue ? blue : undefined];
  for (const answer of needed) {
    if (answer?.kind === 'failed') return { outcome: 'error', because: answer.why };
  }
  if (recent !== undefined && gate.requests !== undefined && recent.kind === 'value' && recent.value <= 0) {
    return inconclusive('no requests within the last 2 min: what the query says is old');
  }
  for (const answer of needed) {
    if (answer?.kind !== 'unclear') continue;
    if (answer === recent) return inconclusive(`within the last 2 min: ${answer.why}`);
    return inconclusive(answer === blue ? `on blue, which green is compared with: ${answer.why}` : answer.why);
  }
  return undefined;
}

/** Counts: a share of requests, judged as every other share. Prometheus extrapolates, so counts are rounded apart. */
function decideCounts(
  gate: PrometheusGate,
  now: PrometheusMeasurement,
  series: readonly PrometheusMeasurement[],
): ShareVerdict {
  const [hits, requests] = [valueOf(now.green), valueOf(now.requests)];
  if (hits === undefined || requests === undefined) return inconclusive('Prometheus has given no numbers');
  if (hits < 0 || requests < 0) return inconclusive(`${hits} of ${requests} requests can't be`);
  if (Math.ceil(hits) > Math.ceil(requests)) {
    return inconclusive(`the query counts more, ${hits}, than there were requests, ${requests}`);
  }
  const of = Math.floor(requests);
  const [blueHits, blueRequests] = [valueOf(now.blue), valueOf(now.blueRequests)];
  const verdict = judgeShare({
    share: gate.max ?? 0,
    green: { surely: Math.min(of, Math.floor(hits)), possibly: Math.min(of, Math.ceil(hits)), of },
    ...(blueHits === undefined || blueRequests === undefined || blueHits < 0 || blueHits > blueRequests
      ? {}
      : {
          blue: {
            hits: Math.ceil(blueHits),
            of: Math.ceil(blueRequests),
            isBeside: blueRequests > 0 && blueRequests >= of * PART_OF_GREEN,
          },
        }),
    what: `requests on green, "${gate.name}"`,
    pieces: piecesOf(gate, series),
  });
  if (gate.minRequests === undefined || of >= gate.minRequests || verdict.outcome === 'fail') return verdict;
  return inconclusive(
    `${count(of)} of the ${count(gate.minRequests)} requests that the plan asks for; ${verdict.because}`,
  );
}

/** With fewer requests than this part of those before, Prometheus has begun anew, or its targets have. */
const PART_THAT_FELL = 1 / 2;

/**
 * What was counted from one measurement to the next; the first has what was counted before anybody looked, as one piece.
 * Each counts since the stage opened; Prometheus extrapolates, so one may be a little below the one before: then nothing
 * was added. One that is far below begins anew.
 */
function piecesOf(gate: PrometheusGate, series: readonly PrometheusMeasurement[]): Pieces<Piece> {
  let green: Counted = { hits: 0, of: 0 };
  let blue: Counted = { hits: 0, of: 0 };
  const slices = new Slices<Piece>();
  for (const measured of series) {
    const [ofGreen, ofBlue] = [
      grownFrom(green, measured.green, measured.requests),
      grownFrom(blue, measured.blue, measured.blueRequests),
    ];
    slices.append({
      ...{ surely: ofGreen.added.hits, of: ofGreen.added.of },
      ...{ blueHits: ofBlue.added.hits, blueOf: ofBlue.added.of },
    });
    [green, blue] = [ofGreen.now, ofBlue.now];
  }
  return { slices, name: gate.name, count: (piece) => piece };
}

interface Counted {
  readonly hits: number;
  readonly of: number;
}

/** What a side has counted by now, and what of that was added. */
function grownFrom(
  before: Counted,
  hits: PrometheusAnswer | undefined,
  requests: PrometheusAnswer | undefined,
): { readonly now: Counted; readonly added: Counted } {
  const whole = (answer: PrometheusAnswer | undefined): number => Math.max(0, Math.floor(valueOf(answer) ?? 0));
  const told = { hits: whole(hits), of: whole(requests) };
  // Since when it counts anew is not known, so what it has counted so far is of no moment.
  if (valueOf(requests) !== undefined && told.of < before.of * PART_THAT_FELL) {
    return { now: told, added: { hits: 0, of: 0 } };
  }
  const now = { hits: Math.max(before.hits, told.hits), of: Math.max(before.of, told.of) };
  const of = now.of - before.of;
  return { now, added: { of, hits: Math.min(of, now.hits - before.hits) } };
}

/** A number without a sample behind it. */
function decideValue(gate: PrometheusGate, { measured, blueBefore }: PrometheusSeries): ShareVerdict {
  const { min = -Infinity, max = Infinity, maxIncrease = Infinity } = gate;
  const blue = blueBefore ?? valueOf(measured.at(-1)?.blue);
  const limits = [
    ...(gate.min === undefined ? [] : [`at least ${min}`]),
    ...(gate.max === undefined ? [] : [`at most ${max}`]),
    ...(gate.maxIncrease === undefined
      ? []
      : [`at most ${maxIncrease} above blue's ${blue}${blueBefore === undefined ? '' : ' before the stage'}`]),
  ];
  const excess = (one: PrometheusMeasurement): number => {
    const value = valueOf(one.green) ?? NaN;
    const increase =
      gate.maxIncrease === undefined ? 0 : value - (blueBefore ?? valueOf(one.blue) ?? NaN) - maxIncrease;
    return Math.max(gate.max === undefined ? 0 : value - max, gate.min === undefined ? 0 : min - value, increase);
  };
  const value = valueOf(measured.at(-1)?.green);
  return decideGauge({
    what: `"${gate.name}"`,
    values: measured.map(excess),
    isKept: (beyond) => beyond <= 0,
    describe: () => `"${gate.name}" is ${value}; ${limits.join(' and ')} is allowed`,
  });
}

function valueOf(answer: PrometheusAnswer | undefined): number | undefined {
  return answer?.kind === 'value' ? answer.value : undefined;
}
