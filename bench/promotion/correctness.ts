import type { Measured, PromotionResult } from './result.js';

/**
 * Pure: what the audits say is wrong where Verdigris moves, a line each. Unlike a speed it depends on no machine, so the
 * command fails for it. The recipe by hand is expected to fail requests: its figures are in the tables.
 */
export function wrongIn({ measured, options }: Pick<PromotionResult, 'measured' | 'options'>): readonly string[] {
  return measured
    .filter(({ contestant }) => contestant !== 'manual')
    .flatMap((one) => [...wrongInOne(one), ...withoutLoad(one, options)]);
}

/** A hold that meets no writers, since the load has ended or never begun, is no figure. */
function withoutLoad({ contestant, audit, moves }: Measured, { tps, rest }: PromotionResult['options']): string[] {
  const least = (moves.length * rest * tps) / 2;
  if (audit.acknowledged >= least) return [];
  return [`${contestant}: only ${audit.acknowledged} writes, of ${2 * least} that were due between the moves alone`];
}

function wrongInOne({ contestant, audit }: Measured): string[] {
  const counts: [count: number, what: string][] = [
    [audit.lost, 'writes lost'],
    [audit.doubled, 'writes doubled'],
    [audit.failedButThere, 'writes not acknowledged, and there all the same'],
    [audit.failed, 'failed requests'],
    [audit.unanswered, 'requests without an answer'],
  ];
  return [
    ...counts.filter(([count]) => count > 0).map(([count, what]) => `${contestant}: ${count} ${what}`),
    ...(audit.isEqual ? [] : [`${contestant}: blue and green differ`]),
    ...(audit.isBalanced ? [] : [`${contestant}: balances, counters or the sequence do not agree with the payments`]),
  ];
}
