import type { PrometheusGate, PrometheusMeasurement } from './prometheus-measurement.js';
import type { PrometheusAnswer } from './prometheus-query.js';

/**
 * How far green's number is beyond the limits of a gate without `requests`: 0 or less where it keeps them, NaN where it, or
 * what it is compared with, is not known.
 *
 * @param blueBefore blue's number from before the stage, where blue of now has too few reads
 */
export function excessOf(
  { min, max, maxIncrease }: PrometheusGate,
  { green, blue }: Pick<PrometheusMeasurement, 'green' | 'blue'>,
  blueBefore: number | undefined,
): number {
  const value = valueOf(green) ?? NaN;
  const increase = maxIncrease === undefined ? 0 : value - (blueBefore ?? valueOf(blue) ?? NaN) - maxIncrease;
  return Math.max(max === undefined ? 0 : value - max, min === undefined ? 0 : min - value, increase);
}

export function valueOf(answer: PrometheusAnswer | undefined): number | undefined {
  return answer?.kind === 'value' ? answer.value : undefined;
}
