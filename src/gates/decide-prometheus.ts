import { decideGauge } from './decide-gauge.js';
import type { PrometheusGate, PrometheusMeasurement } from './prometheus-measurement.js';
import type { PrometheusAnswer } from './prometheus-query.js';
import { count, inconclusive, judgeShare, type ShareVerdict } from './share.js';

/** Answers `prometheus` from what has been measured, oldest first. */
export function decidePrometheus(gate: PrometheusGate, series: readonly PrometheusMeasurement[]): ShareVerdict {
  const now = series.at(-1);
  if (now === undefined) return inconclusive('Prometheus has not been asked yet');
  const trouble = troubleIn(gate, now);
  if (trouble !== undefined) return trouble;
  return gate.requests === undefined ? decideValue(gate, series) : decideCounts(gate, now);
}

/** What keeps a measurement from meaning anything. Blue may have no reads any more: then green is not compared. */
function troubleIn(
  gate: PrometheusGate,
  { green, requests, blue, recent }: PrometheusMeasurement,
): ShareVerdict | undefined {
  const needed = [green, requests, recent, gate.maxIncrease === undefined ? undefined : blue];
  for (const answer of needed) {
    if (answer?.kind === 'failed') return { outcome: 'error', because: answer.why };
  }
  if (recent !== undefined && gate.requests !== undefined && recent.kind === 'value' && recent.value <= 0) {
    return inconclusive('no requests within the last 2 min: what the query says is old');
  }
  for (const answer of needed) {
    if (answer?.kind !== 'unclear') continue;
    return inconclusive(answer === recent ? `within the last 2 min: ${answer.why}` : answer.why);
  }
  return undefined;
}

/** Counts: a share of requests, judged as every other share. Prometheus extrapolates, so counts are rounded apart. */
function decideCounts(gate: PrometheusGate, now: PrometheusMeasurement): ShareVerdict {
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
      : { blue: { hits: Math.ceil(blueHits), of: Math.ceil(blueRequests) } }),
    what: `requests on green, "${gate.name}"`,
  });
  if (gate.minRequests === undefined || of >= gate.minRequests || verdict.outcome === 'fail') return verdict;
  return inconclusive(
    `${count(of)} of the ${count(gate.minRequests)} requests that the plan asks for; ${verdict.because}`,
  );
}

/** A number without a sample behind it. */
function decideValue(gate: PrometheusGate, series: readonly PrometheusMeasurement[]): ShareVerdict {
  const { min = -Infinity, max = Infinity, maxIncrease = Infinity } = gate;
  const blue = valueOf(series.at(-1)?.blue);
  const limits = [
    ...(gate.min === undefined ? [] : [`at least ${min}`]),
    ...(gate.max === undefined ? [] : [`at most ${max}`]),
    ...(gate.maxIncrease === undefined ? [] : [`at most ${maxIncrease} above blue's ${blue}`]),
  ];
  const excess = (one: PrometheusMeasurement): number => {
    const value = valueOf(one.green) ?? NaN;
    const increase = gate.maxIncrease === undefined ? 0 : value - (valueOf(one.blue) ?? NaN) - maxIncrease;
    return Math.max(gate.max === undefined ? 0 : value - max, gate.min === undefined ? 0 : min - value, increase);
  };
  const value = valueOf(series.at(-1)?.green);
  return decideGauge({
    what: `"${gate.name}"`,
    values: series.map(excess),
    isKept: (beyond) => beyond <= 0,
    describe: () => `"${gate.name}" is ${value}; ${limits.join(' and ')} is allowed`,
  });
}

function valueOf(answer: PrometheusAnswer | undefined): number | undefined {
  return answer?.kind === 'value' ? answer.value : undefined;
}
