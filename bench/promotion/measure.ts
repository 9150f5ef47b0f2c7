import { setTimeout as sleep } from 'node:timers/promises';
import { otherSide, type Side } from '../../src/side.js';
import { median } from '../data/statistics.js';
import { audit } from './audit.js';
import type { LoadResult } from './load-messages.js';
import type { Move, Mover } from './move.js';
import type { Contestant, PromotionOptions } from './options.js';
import type { Pair } from './pair.js';
import type { Measured, MeasuredMove } from './result.js';
import { ordinarySeconds, profileOfMove, quantile, secondOfMove, wholeMove, type Samples } from './seconds.js';

export interface Measurement {
  readonly contestant: Contestant;
  readonly options: PromotionOptions;
  readonly pair: Pair;
  readonly mover: Mover;
  /** Ends the load and tells what it saw. */
  readonly finish: () => Promise<LoadResult>;
  /** Until the other side has everything that this one has. */
  readonly settled: (primary: Side) => Promise<void>;
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

/** Moves writes there and back, `moves` times, with ordinary seconds in between. */
export async function measure(measurement: Measurement): Promise<Measured> {
  const { contestant, options, pair, mover, finish, settled, signal, say } = measurement;
  const moves: Move[] = [];
  let primary: Side = 'blue';
  await sleep((WARM_UP_SECONDS + options.rest) * 1_000, undefined, { signal });
  for (let n = 1; n <= options.moves * 2; n++) {
    const move = await mover(primary);
    moves.push(move);
    primary = otherSide(primary);
    const tries = move.tries === 1 ? '' : ` in ${move.tries} tries`;
    say(`${contestant}: move ${n} of ${options.moves * 2}, to ${primary}: held ${move.holdMs.toFixed(1)} ms${tries}`);
    for (const why of move.blocked) say(`${contestant}:   a try did not go through: ${why.split('\n')[0]}`);
    await sleep(options.rest * 1_000, undefined, { signal });
  }
  const result = await finish();
  await settled(primary);
  return {
    ...whatWasSeen(result, moves),
    contestant,
    audit: await audit(pair.databases, primary, result),
    errors: result.errors,
    retried: result.retried,
    primaryAtEnd: primary,
  };
}

const WARM_UP_SECONDS = 3;

/** Pure: the application's side of the moves. */
export function whatWasSeen(
  samples: Samples,
  moves: readonly Move[],
): Pick<Measured, 'moves' | 'ordinary' | 'ordinarySlowestMs' | 'p50' | 'p99'> {
  const ordinary = ordinarySeconds(samples, moves);
  const ordinarySlowestMs = median(ordinary.map(({ slowestMs }) => slowestMs));
  const isOrdinary = (at: number): boolean => ordinary.some(({ from, to }) => at >= from && at < to);
  const tooks = [...samples.took].filter((_, i) => isOrdinary(samples.due[i] ?? 0));
  return {
    moves: moves.map((move): MeasuredMove => {
      const { slowestMs } = secondOfMove(samples, move);
      return {
        ...move,
        slowestMs,
        slowestOfWholeMs: wholeMove(samples, move).slowestMs,
        profile: profileOfMove(samples, move),
        aboveOrdinaryMs: slowestMs - (ordinarySlowestMs ?? 0),
      };
    }),
    ...{ ordinary, ordinarySlowestMs },
    p50: quantile(tooks, 0.5),
    p99: quantile(tooks, 0.99),
  };
}
