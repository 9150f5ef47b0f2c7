/** A length of time in milliseconds. Branded, so that seconds are never passed by mistake. */
export type Milliseconds = number & { readonly __unit: 'ms' };

const UNITS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** The form of a duration in a plan: a whole number and a unit, such as `250ms`, `5s`, `15m`, `48h`, `2d`. */
export const DURATION_PATTERN = /^(0|[1-9][0-9]{0,8})(ms|s|m|h|d)$/;

/**
 * The milliseconds that a plan's duration stands for.
 *
 * @throws RangeError when the text is not a duration.
 */
export function parseDuration(text: string): Milliseconds {
  const match = DURATION_PATTERN.exec(text);
  const unit = match?.[2];
  if (match === null || unit === undefined || !isUnit(unit)) {
    throw new RangeError(`"${text}" is not a duration: write a number and a unit, such as 500ms, 5s, 15m, 48h or 2d`);
  }
  return (Number(match[1]) * UNITS[unit]) as Milliseconds;
}

function isUnit(text: string): text is keyof typeof UNITS {
  return text in UNITS;
}

/** A duration for people: `1.5 s`, `15 min`, `48 h`. */
export function formatDuration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${trim(ms / 1_000)} s`;
  if (ms < 3_600_000) return `${trim(ms / 60_000)} min`;
  return `${trim(ms / 3_600_000)} h`;
}

function trim(value: number): string {
  return String(Math.round(value * 10) / 10);
}
