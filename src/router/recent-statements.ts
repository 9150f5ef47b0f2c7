import type pg from 'pg';
import { firstWords } from './first-words.js';

/** How many different statements are remembered, and how long a text or a value of one may be. */
const MOST = 64;
const LONGEST = { text: 10_000, value: 1_000 };

/** What can be planned without being run. */
const PLANNABLE = /(?:select|insert|update|delete|merge|with|values)\b/iy;

/** A statement that the application has run, with values that it once had. */
export interface RecentStatement {
  readonly text: string;
  readonly values: readonly unknown[];
}

interface Entry {
  readonly statement: RecentStatement;
  usedAt: number;
}

/**
 * The statements that this application has run lately, by their texts: what a side that takes over will be asked. Kept
 * small, since every request passes here.
 */
export class RecentStatements {
  readonly #entries = new Map<string, Entry>();
  #uses = 0;

  /** Takes note of a statement that has succeeded. */
  add(query: string | pg.QueryConfig, values: readonly unknown[] | undefined): void {
    const text = typeof query === 'string' ? query : query.text;
    this.#uses += 1;
    const known = this.#entries.get(text);
    if (known !== undefined) {
      known.usedAt = this.#uses;
      return;
    }
    if (text.length > LONGEST.text || firstWords(PLANNABLE, text) === null) return;
    const bound = values ?? (typeof query === 'string' ? undefined : (query.values as unknown[] | undefined)) ?? [];
    // Only without values can a text be several statements; a quoted semicolon counts, too.
    if (bound.length === 0 && /;\s*\S/.test(text)) return;
    if (this.#entries.size >= MOST) this.#forgetOldest();
    // The caller may use its array again.
    this.#entries.set(text, { statement: { text, values: bound.map(small) }, usedAt: this.#uses });
  }

  /** The one that was used last comes first. */
  list(): readonly RecentStatement[] {
    return [...this.#entries.values()].sort((a, b) => b.usedAt - a.usedAt).map(({ statement }) => statement);
  }

  #forgetOldest(): void {
    let oldest: [text: string, usedAt: number] | undefined;
    for (const [text, { usedAt }] of this.#entries) {
      if (oldest === undefined || usedAt < oldest[1]) oldest = [text, usedAt];
    }
    if (oldest !== undefined) this.#entries.delete(oldest[0]);
  }
}

const memories = new WeakMap<pg.ClientBase, RecentStatements>();

/** Has what a connection runs for the application remembered. */
export function rememberStatements(client: pg.ClientBase, statements: RecentStatements): void {
  memories.set(client, statements);
}

/** A statement of the application has succeeded on this connection. */
export function hasSucceeded(
  client: pg.ClientBase,
  query: string | pg.QueryConfig,
  values: readonly unknown[] | undefined,
): void {
  memories.get(client)?.add(query, values);
}

/** A value that is not small is left out: NULL can be planned, too. */
function small(value: unknown): unknown {
  if (typeof value === 'string') return value.length <= LONGEST.value ? value : null;
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint') return value;
  return value instanceof Date ? new Date(value) : null;
}
