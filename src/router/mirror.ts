import { createHash } from 'node:crypto';
import type pg from 'pg';
import { READ_ONLY, sqlState } from '../postgres/sqlstate.js';
import type { Side } from '../side.js';
import { doesMoreThanRead } from './besides-reading.js';
import type { BluePosition } from './blue-position.js';
import type { Breaker } from './breaker.js';
import { isLinkFailure, NothingSent } from './failure.js';
import { firstWords } from './first-words.js';
import type { GreenProgress } from './green-progress.js';
import type { RouterLogger } from './logger.js';
import type { MirrorOutcome, RequestMetrics } from './metrics.js';
import { differenceOf, digestOf, type ResultDifference, type ResultDigest } from './result-difference.js';
import type { Routes } from './routes.js';
import { send } from './send.js';
import type { SideLink } from './side-link.js';
import type { SidePool } from './side-pool.js';
import type { Statement } from './statement.js';
import { pause } from '../timing.js';

/** Reads on blue that are run on green too, and whose answers are compared. */
export interface MirrorOptions {
  /** The share of blue's reads, from 0 to 1. */
  readonly share: number;
  /** At most so many at a time; reads beyond that are not mirrored. As many connections to each side. Default 2. */
  readonly concurrency?: number;
}

export interface MirrorParts {
  readonly share: number;
  readonly concurrency: number;
  readonly routes: Routes;
  /** Of the mirror's own, so that no request ever waits for one that it has. */
  readonly pools: Readonly<Record<Side, SidePool>>;
  readonly greenLink: SideLink;
  readonly greenBreaker: Breaker;
  readonly greenProgress: GreenProgress;
  readonly bluePosition: BluePosition;
  readonly metrics: RequestMetrics;
  readonly logger: RouterLogger;
}

/** Takes blue's answer, or undefined when there is none. */
export type Mirrored = (blue: pg.QueryResult | undefined) => void;

/** A larger answer is not compared: the process has other things to do. */
const MOST_ROWS = 500;
const STATEMENT_MS = 2_000;
/** A server that is frozen does not end a statement by itself. */
export const MIRROR_ANSWER_MS = STATEMENT_MS + 500;
const CATCH_UP_MS = 1_000;
const TRIES = 3;

const READS = /(?:select|with|table|values)\b/iy;

interface Verdict {
  readonly outcome: MirrorOutcome;
  readonly difference?: ResultDifference;
  readonly rows?: Readonly<Record<Side, number>>;
  readonly code?: string | undefined;
}

/**
 * Runs a share of blue's reads on green too, beside the caller, who neither waits for it nor hears of it. Which side is
 * asked first is left to chance, so that neither always finds the other's warm caches.
 */
export class Mirror {
  readonly #parts: MirrorParts;
  #running = 0;

  constructor(parts: MirrorParts) {
    this.#parts = parts;
  }

  /** A read is about to go to blue: whether it is mirrored. What is returned must be called with blue's answer. */
  begin(endpoint: string, { query, values }: Statement): Mirrored | undefined {
    const { share, concurrency, routes, greenLink, greenBreaker } = this.#parts;
    if (Math.random() >= share || this.#running >= concurrency) return undefined;
    if (routes.current.epoch === 0 || routes.current.writesOn !== 'blue') return undefined;
    if (!greenLink.isUp || greenBreaker.isOpen) return undefined;
    const text = typeof query === 'string' ? query : query.text;
    // Asked by another session, a lock answers otherwise, and the mirror would hold it for a while.
    if (firstWords(READS, text) === null || doesMoreThanRead(text)) return undefined;
    // The caller may use its array again.
    const statement = { query, values: values && [...values] };
    this.#running += 1;
    const early = Math.random() < 0.5 ? this.#read('green', statement) : undefined;
    early?.catch(() => undefined);
    return (blue) => {
      // Now, since the rows are the caller's to change.
      const digest = digestOfCaller(blue);
      void this.#finish(endpoint, statement, digest, early).finally(() => (this.#running -= 1));
    };
  }

  /** Nobody waits for what is under way. */
  async close(): Promise<void> {
    await Promise.all([this.#parts.pools.blue.abandon(), this.#parts.pools.green.abandon()]);
  }

  async #finish(
    endpoint: string,
    statement: Statement,
    blue: ResultDigest | undefined,
    early: Promise<ResultDigest> | undefined,
  ): Promise<void> {
    const verdict = await this.#judge(statement, blue, early).catch((error: unknown) => ofFailure(error));
    const { metrics, logger } = this.#parts;
    if (verdict.outcome !== 'different' && verdict.outcome !== 'failed') {
      metrics.mirrored(endpoint, verdict.outcome);
      return;
    }
    const { difference, rows, code } = verdict;
    const example = {
      endpoint,
      statement: nameOf(statement.query),
      ...(difference && { kind: difference.kind, columns: difference.columns }),
      ...(rows && { rows }),
      ...(code !== undefined && { code }),
    };
    metrics.mirrored(endpoint, verdict.outcome, example);
    logger.warn(example, 'router: green answers a mirrored read differently');
  }

  /**
   * Answers that differ may do so because green was a moment behind, or because the row changes all the time. So both
   * sides are asked again: blue, then green when it has caught up with that, then blue. Only if blue's two answers are
   * equal, and green's is another, do they differ.
   */
  async #judge(
    statement: Statement,
    blue: ResultDigest | undefined,
    early: Promise<ResultDigest> | undefined,
  ): Promise<Verdict> {
    if (blue === undefined) {
      await early?.catch(() => undefined);
      return { outcome: 'skipped' };
    }
    const green = await (early ?? this.#read('green', statement));
    const ordered = /\border\s+by\b/i.test(
      typeof statement.query === 'string' ? statement.query : statement.query.text,
    );
    if (differenceOf(blue, green, ordered) === undefined) return { outcome: 'same' };
    for (let tries = 0; tries < TRIES; tries++) {
      const before = await this.#read('blue', statement);
      if (!(await this.#hasCaughtUp())) return { outcome: 'unsettled' };
      const again = await this.#read('green', statement);
      const after = await this.#read('blue', statement);
      const difference = differenceOf(before, again, ordered);
      if (difference === undefined) return { outcome: 'same' };
      if (differenceOf(before, after, ordered) === undefined) {
        return { outcome: 'different', difference, rows: { blue: before.rows.length, green: again.rows.length } };
      }
      await pause(20, 50);
    }
    return { outcome: 'unsettled' };
  }

  async #hasCaughtUp(): Promise<boolean> {
    const { bluePosition, greenProgress, routes } = this.#parts;
    const position = await bluePosition.now();
    return position !== undefined && greenProgress.reached(routes.current.epoch, position, CATCH_UP_MS);
  }

  #read(side: Side, { query, values }: Statement): Promise<ResultDigest> {
    return this.#parts.pools[side].use('writer', async (client) => {
      await send(client, BEGIN, undefined);
      try {
        const digest = digestOf(await send(client, query, values));
        await send(client, END, undefined);
        return digest;
      } catch (error) {
        if (!isLinkFailure(error)) await send(client, END, undefined);
        throw error;
      }
    });
  }
}

/** Whatever the application's type parsers make of a value, it is no reason to fail its read. */
function digestOfCaller(blue: pg.QueryResult | undefined): ResultDigest | undefined {
  // Several statements in one text have an array of results.
  if (blue === undefined || Array.isArray(blue) || blue.rows.length > MOST_ROWS) return undefined;
  try {
    return digestOf(blue);
  } catch {
    return undefined;
  }
}

const BEGIN = `BEGIN TRANSACTION READ ONLY; SET LOCAL statement_timeout = ${STATEMENT_MS}`;

/** A function that is read may take locks of the session: they outlive its transaction. */
const END = 'ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()';

/** A side that is away, or a read that writes, says nothing about what green would answer. */
function ofFailure(error: unknown): Verdict {
  const code = sqlState(error);
  const saysNothing = error instanceof NothingSent || isLinkFailure(error) || code === READ_ONLY;
  return saysNothing ? { outcome: 'skipped' } : { outcome: 'failed', code };
}

/** A text may hold values. */
function nameOf(query: string | pg.QueryConfig): string {
  if (typeof query !== 'string' && query.name !== undefined) return query.name;
  const text = typeof query === 'string' ? query : query.text;
  return `sha256:${createHash('sha256').update(text).digest('hex').slice(0, 16)}`;
}
