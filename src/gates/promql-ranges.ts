/** What a query of PromQL looks back over: `[5m]` of a series, or `[1h:5m]` of a query. */
export interface Range {
  /** As it is written, with its brackets. */
  readonly text: string;
  /** Where it begins and ends in the query. */
  readonly from: number;
  readonly to: number;
  /** The function that it is handed to, `increase`, empty where there is none, and where what is handed to it begins. */
  readonly of: string;
  readonly begins: number;
  /** Its length, where it is written in the plan; undefined for `{{window}}`, and for what has to be computed. */
  readonly seconds: number | undefined;
  /** Of a query, not of a series. */
  readonly isSubquery: boolean;
  /** As long as the stage has lasted. */
  readonly isWindow: boolean;
}

/** The ranges of a query, in their order. Brackets in texts and comments are none. */
export function rangesOf(query: string): Range[] {
  const bare = withoutTexts(query);
  return [...bare.matchAll(/\[([^\]]*)\]/g)].map((found) => {
    const [length = '', ...steps] = (found[1] ?? '').split(':');
    return {
      text: found[0],
      from: found.index,
      to: found.index + found[0].length,
      ...functionAround(bare, found.index),
      seconds: secondsOf(length.trim()),
      isSubquery: steps.length > 0,
      isWindow: /\{\{\s*window\s*\}\}/.test(length),
    };
  });
}

/** The query with no range of a series longer than so many seconds: what it says of the last moments alone. */
export function shortened(query: string, seconds: number): string {
  return rangesOf(query).reduceRight(
    (text, range) =>
      range.isSubquery || range.seconds === undefined || range.seconds <= seconds
        ? text
        : `${text.slice(0, range.from)}[${seconds}s]${text.slice(range.to)}`,
    query,
  );
}

/** Of a counter that only grows, these are such a counter again, however far they look back. */
const STILL_COUNTERS: readonly string[] = ['last_over_time', 'max_over_time', 'min_over_time'];

/** Whether what is handed over is as large as the counter itself: whatever was counted before anybody looked is in it. */
export function isStillCounter({ of }: Range): boolean {
  return STILL_COUNTERS.includes(of);
}

/** Whether a query gives counters as they are, and not what was added over a range. */
export function countsFromTheStart(query: string): boolean {
  return rangesOf(query).every(isStillCounter);
}

/** As long as the query, with blanks in place of what stands in quotes or behind `#`. */
export function withoutTexts(query: string): string {
  return query.replaceAll(/"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`|#[^\n]*/g, (text) => ' '.repeat(text.length));
}

/** The parenthesis that is open at a place, and the name before it. */
function functionAround(bare: string, at: number): Pick<Range, 'of' | 'begins'> {
  let closed = 0;
  for (let i = at - 1; i >= 0; i--) {
    if (bare[i] === ')') closed += 1;
    if (bare[i] !== '(') continue;
    if (closed === 0) return { of: /(\w+)\s*$/.exec(bare.slice(0, i))?.[1]?.toLowerCase() ?? '', begins: i + 1 };
    closed -= 1;
  }
  return { of: '', begins: 0 };
}

const UNITS: Readonly<Record<string, number>> = {
  ...{ ms: 0.001, s: 1, m: 60, h: 3_600 },
  ...{ d: 86_400, w: 7 * 86_400, y: 365 * 86_400 },
};

/** `1h30m`, or a number of seconds. */
function secondsOf(length: string): number | undefined {
  if (/^\d+(?:\.\d+)?$/.test(length)) return Number(length);
  if (!/^(?:\d+(?:ms|[smhdwy]))+$/.test(length)) return undefined;
  return [...length.matchAll(/(\d+)(ms|[smhdwy])/g)].reduce(
    (sum, [, n, unit = '']) => sum + Number(n) * (UNITS[unit] ?? NaN),
    0,
  );
}
