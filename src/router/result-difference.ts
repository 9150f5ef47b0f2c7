import type pg from 'pg';
import { orderAsked, type OrderKey } from './order-asked.js';

/** What of a result is compared: texts, so that nothing of it changes when its owner changes it. */
export interface ResultDigest {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** How green's answer differs from blue's. It names columns, never values. */
export interface ResultDifference {
  readonly kind: 'columns' | 'count' | 'rows' | 'order';
  /**
   * Columns that green lacks, or in which a row of blue has no equal. Of another order, the keys that show it: none where
   * what was asked for may leave both.
   */
  readonly columns: readonly string[];
}

/** Whether both answers may be right: they are the same rows, and no key of the order shows that one is out of it. */
export function mayBothBeRight({ kind, columns }: ResultDifference): boolean {
  return kind === 'order' && columns.length === 0;
}

export function digestOf(result: pg.QueryResult): ResultDigest {
  const columns = result.fields.map(({ name }) => name);
  const rows = result.rows.map((row: unknown) =>
    (Array.isArray(row) ? row : columns.map((name) => (row as Record<string, unknown>)[name])).map(textOf),
  );
  return { columns, rows };
}

/**
 * Compares two answers by the text of their values, so that an integer that has become a bigint is the same. Columns
 * that green has more are left out. Rows are compared as a set with repetitions, and their order only if it was asked for.
 *
 * @param text of the statement
 */
export function differenceOf(blue: ResultDigest, green: ResultDigest, text: string): ResultDifference | undefined {
  const missing = blue.columns.filter((name) => !green.columns.includes(name));
  if (missing.length > 0) return { kind: 'columns', columns: missing };
  if (blue.rows.length !== green.rows.length) return { kind: 'count', columns: [] };
  const places = blue.columns.map((name, place) =>
    green.columns[place] === name ? place : green.columns.indexOf(name),
  );
  const ofBlue = blue.rows.map((row) => JSON.stringify(row));
  const ofGreen = green.rows.map((row) => JSON.stringify(places.map((place) => row[place] ?? '')));
  if (ofBlue.every((row, n) => row === ofGreen[n])) return undefined;
  const sorted = [ofBlue.toSorted(), ofGreen.toSorted()] as const;
  if (sorted[0].every((row, n) => row === sorted[1][n])) {
    const keys = orderAsked(text);
    return keys && { kind: 'order', columns: brokenKeys(keys, blue, ofGreen) };
  }
  return { kind: 'rows', columns: blue.columns.filter((_, n) => differsIn(n, sorted)) };
}

/**
 * Keys whose values come in another sequence: rows that are equal in all keys may come in any order, which changes none of
 * these. Values may be equal and have other texts: see sortedAs().
 */
function brokenKeys(keys: readonly OrderKey[], { columns, rows }: ResultDigest, ofGreen: readonly string[]): string[] {
  const places = keys.map((key) => {
    if (typeof key === 'number') return key - 1;
    return columns.indexOf(key) === columns.lastIndexOf(key) ? columns.indexOf(key) : -1;
  });
  // What comes behind a key that is not in the answer may be in any order.
  const unknown = places.findIndex((place) => columns[place] === undefined);
  const known = unknown === -1 ? places : places.slice(0, unknown);
  const green = ofGreen.map((row) => JSON.parse(row) as string[]);
  const isBroken = (place: number): boolean =>
    rows.some((row, n) => sortedAs(row[place] ?? '') !== sortedAs(green[n]?.[place] ?? ''));
  return known.filter(isBroken).map((place) => columns[place] ?? '');
}

/** Longer than a number or an interval is in earnest, characters. */
const LONGEST_VALUE = 1_000;

/** A number as text. Not as a number: what is beyond 53 bits would be equal to its neighbours. */
const NUMBER = /^=(-?)0*(\d+)(?:\.(\d*?)0*)?$/;

/** The parts of an interval as `pg` reads it, with what PostgreSQL takes each for when it sorts, ms. */
const INTERVAL_MS = new Map([
  ['years', 12 * 30 * 86_400_000],
  ['months', 30 * 86_400_000],
  ['days', 86_400_000],
  ['hours', 3_600_000],
  ['minutes', 60_000],
  ['seconds', 1_000],
  ['milliseconds', 1],
]);
const INTERVAL_PART = /"(\w+)":(-?[\d.]+(?:e-?\d+)?)/g;
const PART = `"(?:${[...INTERVAL_MS.keys()].join('|')})":-?[\\d.]+(?:e-?\\d+)?`;
const INTERVAL = new RegExp(`^=\\{(?:${PART}(?:,${PART})*)?\\}$`);

/**
 * The same for texts of values that ORDER BY may hold for equal: 1.5 and 1.50 of a numeric, 1 day and 24 hours, and what
 * differs in case, under a collation that ignores it.
 */
function sortedAs(text: string): string {
  if (text.length > LONGEST_VALUE) return text.toLowerCase();
  const [, sign = '', whole, fraction = ''] = NUMBER.exec(text) ?? [];
  if (whole === undefined) return intervalMs(text) ?? text.toLowerCase();
  const isZero = whole === '0' && fraction === '';
  return `${isZero ? '' : sign}${whole}.${fraction}`;
}

function intervalMs(text: string): string | undefined {
  if (!INTERVAL.test(text)) return undefined;
  let ms = 0;
  for (const [, part = '', count] of text.matchAll(INTERVAL_PART)) ms += Number(count) * (INTERVAL_MS.get(part) ?? NaN);
  return `${Math.round(ms * 1_000)} us`;
}

function differsIn(column: number, [blue, green]: readonly [readonly string[], readonly string[]]): boolean {
  const values = (rows: readonly string[]): string[] =>
    rows.map((row) => JSON.stringify((JSON.parse(row) as string[])[column])).toSorted();
  const ofGreen = values(green);
  return values(blue).some((value, n) => value !== ofGreen[n]);
}

function textOf(value: unknown): string {
  if (value === null || value === undefined) return '-';
  if (value instanceof Date) return `=${Number.isNaN(value.valueOf()) ? 'invalid' : value.toISOString()}`;
  if (Buffer.isBuffer(value)) return `=${value.toString('hex')}`;
  return typeof value === 'object' ? `=${JSON.stringify(value, sortedKeys)}` : `=${String(value)}`;
}

/** json keeps the order of its keys, jsonb has one of its own. */
function sortedKeys(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return String(value);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1)));
}
