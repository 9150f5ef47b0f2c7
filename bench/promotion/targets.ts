import type { Target } from '../data/targets.js';
import type { Contestant } from './options.js';
import type { Measured, PromotionResult } from './result.js';
import { quantile } from './seconds.js';

/** The longest hold that is promised, ms. A recipe by hand promises nothing. */
const LONGEST_HOLD_MS: Partial<Record<Contestant, number>> = { router: 50, pgbouncer: 250 };
const SLOWEST_ABOVE_ORDINARY_MS = 50;

/** Pure: holds a result against what the project promises, for promotions and rollbacks each. */
export function targetsOf({ measured }: Pick<PromotionResult, 'measured'>): readonly Target[] {
  return measured.flatMap((one) => {
    const limit = LONGEST_HOLD_MS[one.contestant];
    return limit === undefined ? [] : targetsOfOne(one, limit);
  });
}

function targetsOfOne({ contestant, moves, audit }: Measured, limit: number): readonly Target[] {
  const directions = [
    { name: 'promotion', own: moves.filter(({ from }) => from === 'blue') },
    { name: 'rollback', own: moves.filter(({ from }) => from === 'green') },
  ];
  return [
    ...directions.flatMap(({ name, own }) => [
      below(
        `${contestant}: hold of a ${name}, p100: below ${limit} ms`,
        own.map(({ holdMs }) => holdMs),
        limit,
      ),
      below(
        `${contestant}: slowest write of a ${name}'s second: at most ${SLOWEST_ABOVE_ORDINARY_MS} ms above ordinary ones`,
        own.map(({ aboveOrdinaryMs }) => aboveOrdinaryMs),
        SLOWEST_ABOVE_ORDINARY_MS,
      ),
    ]),
    none(`${contestant}: no failed request`, audit.failed + audit.unanswered),
    none(`${contestant}: no write lost or doubled`, audit.lost + audit.doubled),
    {
      target: `${contestant}: blue and green have the same rows, balances and counters agree`,
      met: audit.isEqual && audit.isBalanced,
      measured: audit.isEqual ? (audit.isBalanced ? 'equal' : 'do not agree') : 'not equal',
    },
  ];
}

function below(target: string, numbers: readonly number[], limit: number): Target {
  const largest = quantile(numbers, 1);
  if (largest === null) return { target, met: null, measured: 'not measured' };
  return { target, met: largest < limit, measured: `${largest.toFixed(1)} ms` };
}

function none(target: string, count: number): Target {
  return { target, met: count === 0, measured: String(count) };
}
