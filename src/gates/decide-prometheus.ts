import { PART_OF_GREEN } from './baseline.js';
import { decideGauge } from './decide-gauge.js';
import type { Piece, Pieces } from './persistent-evidence.js';
import { excessOf, valueOf } from './prometheus-limits.js';
import type {
  CountsAtOpening,
  PrometheusGate,
  PrometheusMeasurement,
  PrometheusSeries,
} from './prometheus-measurement.js';
import type { PrometheusAnswer } from './prometheus-query.js';
import { count, inconclusive, judgeShare, type ShareVerdict } from './share.js';
import { Slices } from './slices.js';
import { countedAfter, countOf, judgedCounts, type StageCounted } from './stage-counts.js';
import { GrowingCounts } from './growing-counts.js';
import { sumOf, type Counters } from './stage-parts.js';

/** Answers `prometheus` from what has been measured. */
export function decidePrometheus(gate: PrometheusGate, series: PrometheusSeries): ShareVerdict {
  const { measured, blueBefore } = series;
  const now = measured.at(-1);
  if (now === undefined) return inconclusive('Prometheus has not been asked yet');
  const trouble = troubleIn(gate, now, blueBefore);
  if (trouble !== undefined) return trouble;
  if (gate.requests === undefined) return decideValue(gate, series);
  if (now.opening === undefined) return decideOverWindow(gate, series, now);
  return troubleAtOpening(now.opening) ?? decideSinceOpening(gate, series, now.opening);
}

/** What keeps a measurement from meaning anything. Blue may have no reads any more: then it is not asked about now. */
function troubleIn(
  gate: PrometheusGate,
  { green, requests, blue, recent, requestsBefore }: PrometheusMeasurement,
  blueBefore: number | undefined,
): ShareVerdict | undefined {
  const needsBlue = gate.maxIncrease !== undefined && blueBefore === undefined;
  const needed = [green, requests, recent, needsBlue ? blue : undefined, requestsBefore];
  for (const answer of needed) {
    if (answer?.kind === 'failed') return { outcome: 'error', because: answer.why };
  }
  const isOld =
    (gate.requests !== undefined && recent?.kind === 'value' && recent.value <= 0) ||
    (requestsBefore !== undefined && countOf(requestsBefore) === valueOf(requests));
  if (isOld) return inconclusive('no requests within the last 2 min: what the query says is old');
  for (const answer of needed) {
    if (answer?.kind !== 'unclear' || (answer === requestsBefore && answer.isEmpty)) continue;
    if (answer === recent) return inconclusive(`within the last 2 min: ${answer.why}`);
    if (answer === requestsBefore) return inconclusive(`two minutes ago: ${answer.why}`);
    return inconclusive(answer === blue ? `on blue, which green is compared with: ${answer.why}` : answer.why);
  }
  return undefined;
}

/**
 * Counts over the time since the stage opened, as Prometheus says them. Of two of them that answer in turns, one may know
 * less: so the answer before, where there is one, has to pass as well.
 */
function decideOverWindow(gate: PrometheusGate, series: PrometheusSeries, now: PrometheusMeasurement): ShareVerdict {
  const pieces = piecesOf(gate, series.measured);
  const verdict = decideCounts(gate, series, now, pieces);
  const before = series.measured.at(-2);
  if (verdict.outcome !== 'pass' || before === undefined) return verdict;
  if (decideCounts(gate, series, before, pieces).outcome === 'pass') return verdict;
  return inconclusive(`${verdict.because}; it passes when two answers in a row say so`);
}

/** Without the counts of the opening, what was counted before would be taken for the stage's. */
function troubleAtOpening(opening: CountsAtOpening): ShareVerdict | undefined {
  const answers = Object.values(opening);
  for (const answer of answers) {
    if (answer.kind === 'failed') return { outcome: 'error', because: answer.why };
  }
  for (const answer of answers) {
    if (answer.kind === 'unclear' && answer.isEmpty !== true) {
      return inconclusive(`when the stage opened: ${answer.why}`);
    }
  }
  return undefined;
}

/** Counters that are asked for as they are: what was counted since the stage opened. A pass is by what is surely of the stage. */
function decideSinceOpening(gate: PrometheusGate, series: PrometheusSeries, opening: CountsAtOpening): ShareVerdict {
  let counted: StageCounted = {};
  const measured = series.measured.map((one) => {
    counted = one.counted ?? countedAfter(counted, opening, one);
    return withCounts(one, opening, counted);
  });
  const now = series.measured.at(-1);
  if (now === undefined) return inconclusive('Prometheus has not been asked yet');
  const pieces = piecesOf(gate, measured);
  if (counted.green === undefined) return decideCounts(gate, series, measured.at(-1) ?? now, pieces);
  const { sure, doubted, isKnown } = judgedCounts(counted.green);
  // All of blue's: without them, a trouble of both sides would be blamed on green.
  const { blue } = counted;
  const by = (green: Counters): ShareVerdict =>
    decideCounts(gate, series, withCounts(now, opening, { green, blue }), pieces);
  const verdict = by(sure);
  const failed = [verdict, by(counted.green)].find(({ outcome }) => outcome === 'fail');
  if (failed !== undefined && blue !== undefined && judgedCounts(blue).isTorn) {
    return inconclusive(`${failed.because}; but blue's counters, which green is compared with, fall again and again`);
  }
  if (failed !== undefined) return failed;
  const besides =
    doubted.of === 0
      ? ''
      : `; ${count(doubted.hits)} of ${count(doubted.of)} more may be of before the stage, which increase(...[{{window}}]) could tell`;
  if (verdict.outcome !== 'pass') return { ...verdict, because: `${verdict.because}${besides}` };
  if (!isKnown) {
    return inconclusive(
      `${verdict.because}; but what is of the stage shows when requests were counted for two minutes without falls${besides}`,
    );
  }
  const isPass = by(sumOf(sure, doubted)).outcome === 'pass';
  return isPass ? verdict : inconclusive(`${verdict.because}${besides}, and with them it does not pass`);
}

/** The counts of a measurement, by what was counted since the stage opened. */
function withCounts(
  one: PrometheusMeasurement,
  opening: CountsAtOpening,
  { green, blue }: { readonly green?: Counters | undefined; readonly blue?: Counters | undefined },
): PrometheusMeasurement {
  const [hits, blueHits] = [since(one.green, opening.green, green), since(one.blue, opening.blue, blue)];
  return {
    ...one,
    ...(hits === undefined ? {} : { green: hits }),
    ...(blueHits === undefined ? {} : { blue: blueHits }),
    ...(one.requests === undefined || green === undefined ? {} : { requests: instead(one.requests, green.of) }),
    ...(one.blueRequests === undefined || blue === undefined
      ? {}
      : { blueRequests: instead(one.blueRequests, blue.of) }),
  };
}

/** Hits of counters as they are; where the requests are no such counter, what they were at the opening is taken off. */
function since(
  answer: PrometheusAnswer | undefined,
  opened: PrometheusAnswer | undefined,
  counted: Counters | undefined,
): PrometheusAnswer | undefined {
  if (answer === undefined || opened === undefined) return answer;
  return instead(answer, counted?.hits ?? Math.max(0, (valueOf(answer) ?? 0) - (countOf(opened) ?? 0)));
}

/** What can't be, and what says nothing, stays as it is. */
function instead(answer: PrometheusAnswer, value: number): PrometheusAnswer {
  return answer.kind === 'value' && answer.value >= 0 ? { kind: 'value', value } : answer;
}

/**
 * Counts: a share of requests, judged as every other share. Prometheus extrapolates, so counts are rounded apart.
 *
 * @param now what was counted in all
 * @param pieces what was added, piece by piece
 */
function decideCounts(
  gate: PrometheusGate,
  series: PrometheusSeries,
  now: PrometheusMeasurement,
  pieces: PiecesBy,
): ShareVerdict {
  const [hits, requests] = [valueOf(now.green), valueOf(now.requests)];
  if (hits === undefined || requests === undefined) return inconclusive('Prometheus has given no numbers');
  if (hits < 0 || requests < 0) return inconclusive(`${hits} of ${requests} requests can't be`);
  if (Math.ceil(hits) > Math.ceil(requests)) {
    return inconclusive(`the query counts more, ${hits}, than there were requests, ${requests}`);
  }
  const of = Math.floor(requests);
  const blue = blueOf(now);
  const isBeside = blue !== undefined && blue.of > 0 && blue.of >= of * PART_OF_GREEN;
  const verdict = judgeShare({
    share: gate.max ?? 0,
    green: { surely: Math.min(of, Math.floor(hits)), possibly: Math.min(of, Math.ceil(hits)), of },
    ...(blue === undefined ? {} : { blue: { ...blue, isBeside } }),
    what: `requests on green, "${gate.name}"`,
    pieces: pieces(isBeside),
  });
  if (verdict.outcome === 'fail' && blue === undefined && series.leavesBlueTooFew !== true) {
    const unseen = blueUnseen(now);
    if (unseen !== undefined) return unseen;
  }
  if (gate.minRequests === undefined || of >= gate.minRequests || verdict.outcome === 'fail') return verdict;
  return inconclusive(
    `${count(of)} of the ${count(gate.minRequests)} requests that the plan asks for; ${verdict.because}`,
  );
}

/** What blue has counted; undefined where it is not asked about, or nothing can be concluded. */
function blueOf({ blue, blueRequests }: PrometheusMeasurement): { hits: number; of: number } | undefined {
  const [hits, of] = [countOf(blue), valueOf(blueRequests)].map((n) => (n === undefined ? n : Math.ceil(n)));
  return hits === undefined || of === undefined || hits < 0 || hits > of ? undefined : { hits, of };
}

/** A trouble of both sides looks like one of green's while blue is not seen: then nobody is blamed. */
function blueUnseen({ blue, blueRequests }: PrometheusMeasurement): ShareVerdict | undefined {
  if (blueRequests === undefined) return undefined;
  const onBlue = (why: string): string => `green may be worse, but on blue, which it is compared with: ${why}`;
  const answers = [blueRequests, blue];
  for (const answer of answers) {
    if (answer?.kind === 'failed') return { outcome: 'error', because: onBlue(answer.why) };
  }
  for (const answer of answers) {
    if (answer?.kind === 'unclear') return inconclusive(onBlue(answer.why));
  }
  return inconclusive(onBlue('the query counts what there were no requests for'));
}

type PiecesBy = (isBeside: boolean) => Pieces<Piece>;

/** The pieces of a series, cut when they are asked for: what is made of them is not made again. */
function piecesOf(gate: PrometheusGate, series: readonly PrometheusMeasurement[]): PiecesBy {
  const known = new Map<boolean, Pieces<Piece>>();
  return (isBeside) => {
    const pieces = known.get(isBeside) ?? cut(gate, series, isBeside);
    known.set(isBeside, pieces);
    return pieces;
  };
}

/**
 * What was counted from one measurement to the next; the first has what was counted before anybody looked, as one piece.
 * Each counts since the stage opened; Prometheus extrapolates, so one may be a little below the one before: then nothing
 * was added. One that is far below begins anew.
 */
function cut(gate: PrometheusGate, series: readonly PrometheusMeasurement[], isBeside: boolean): Pieces<Piece> {
  const [green, blue] = [new GrowingCounts(), new GrowingCounts()];
  const slices = new Slices<Piece>();
  let piece = NOTHING;
  let answers = 0;
  for (const measured of series) {
    const ofGreen = green.added(measured.green, measured.requests);
    const ofBlue = blue.added(measured.blue, measured.blueRequests);
    piece = {
      ...{ surely: piece.surely + ofGreen.hits, of: piece.of + ofGreen.of },
      ...{ blueHits: piece.blueHits + ofBlue.hits, blueOf: piece.blueOf + ofBlue.of },
    };
    answers += 1;
    const isHalf = isBeside && (piece.of === 0) !== (piece.blueOf === 0);
    if (isHalf && answers < ANSWERS_OF_A_PIECE) continue;
    slices.append(piece);
    [piece, answers] = [NOTHING, 0];
  }
  if (answers > 0) slices.current = piece;
  return { slices, name: gate.name, count: (one) => one };
}

const NOTHING: Piece = { surely: 0, of: 0, blueHits: 0, blueOf: 0 };
/** Prometheus reads the two sides at different moments, a minute apart at most: a piece has what was added to both. */
const ANSWERS_OF_A_PIECE = 12;

/**
 * A number without a sample behind it. One sample that is beyond the limit stays in the answers until the next one is taken, and
 * for as long as a range looks back: so it fails only when what has come since then is beyond the limit by itself.
 */
function decideValue(gate: PrometheusGate, { measured, blueBefore }: PrometheusSeries): ShareVerdict {
  const { min, max, maxIncrease } = gate;
  const now = measured.at(-1);
  const blue = blueBefore ?? valueOf(now?.blue);
  const limits = [
    ...(min === undefined ? [] : [`at least ${min}`]),
    ...(max === undefined ? [] : [`at most ${max}`]),
    ...(maxIncrease === undefined
      ? []
      : [`at most ${maxIncrease} above blue's ${blue}${blueBefore === undefined ? '' : ' before the stage'}`]),
  ];
  const value = valueOf(now?.green);
  const excess = measured.map((one) => excessOf(gate, one, blueBefore));
  // An answer that tells no number has not kept the limits: it keeps from passing, and not from failing.
  const isBeyond = (excess.at(-1) ?? NaN) > 0;
  const verdict = decideGauge({
    what: `"${gate.name}"`,
    values: isBeyond ? excess.slice(-ANSWERS_THAT_FAIL).filter((one) => !Number.isNaN(one)) : excess,
    isKept: (beyond) => beyond <= 0,
    describe: () => `"${gate.name}" is ${value}; ${limits.join(' and ')} is allowed`,
  });
  if (verdict.outcome !== 'fail') return verdict;
  const later = now?.later;
  if (later !== undefined && excessOf(gate, later, blueBefore) > 0) return verdict;
  const since = later === undefined ? 'it may be one moment' : `what came after it is ${saidOf(later.green)}`;
  return inconclusive(`${verdict.because}; but ${since}: it fails when that stays beyond the limit by itself`);
}

/** Two minutes of answers: what is older than that is not of the same moment. */
const ANSWERS_THAT_FAIL = 24;

function saidOf(answer: PrometheusAnswer): string {
  return answer.kind === 'value' ? String(Number(answer.value.toPrecision(3))) : `not known yet (${answer.why})`;
}
