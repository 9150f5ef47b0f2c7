import { createHash } from 'node:crypto';
import type pg from 'pg';
import { doesMoreThanRead } from './besides-reading.js';
import type { Breaker } from './breaker.js';
import { firstWords } from './first-words.js';
import type { RouterLogger } from './logger.js';
import type { RequestMetrics } from './metrics.js';
import { MirrorJudge, QUICK_MS, type JudgeParts, type ToldByBlue } from './mirror-judge.js';
import { digestOf, type ResultDigest } from './result-difference.js';
import type { SideLink } from './side-link.js';
import type { Statement } from './statement.js';

/** Reads on blue that are run on green too, and whose answers are compared. */
export interface MirrorOptions {
  /** The share of blue's reads, from 0 to 1. */
  readonly share: number;
  /** At most so many at a time; reads beyond that are not mirrored. As many connections to each side. Default 2. */
  readonly concurrency?: number;
}

export interface MirrorParts extends JudgeParts {
  readonly share: number;
  readonly concurrency: number;
  readonly greenLink: SideLink;
  readonly greenBreaker: Breaker;
  readonly metrics: RequestMetrics;
  readonly logger: RouterLogger;
}

/** Takes blue's answer, or undefined when there is none. */
export type Mirrored = (blue: pg.QueryResult | undefined) => void;

/** A larger answer is not compared: the process has other things to do. */
const MOST_ROWS = 500;
const READS = /(?:select|with|table|values)\b/iy;

/**
 * Runs a share of blue's reads on green too, beside the caller, who neither waits for it nor hears of it. Which side is
 * asked first is left to chance, so that neither always finds the other's warm caches.
 */
export class Mirror {
  readonly #parts: MirrorParts;
  readonly #judge: MirrorJudge;
  #running = 0;

  constructor(parts: MirrorParts) {
    this.#parts = parts;
    this.#judge = new MirrorJudge(parts);
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
    const began = performance.now();
    const early = Math.random() < 0.5 ? this.#judge.read('green', statement) : undefined;
    early?.catch(() => undefined);
    return (blue) => {
      const isQuick = performance.now() - began <= QUICK_MS;
      // Now, since the rows are the caller's to change.
      const digest = digestOfCaller(blue);
      const told = digest && { digest, isQuick };
      void this.#finish(endpoint, statement, told, early).finally(() => (this.#running -= 1));
    };
  }

  /** Nobody waits for what is under way. */
  async close(): Promise<void> {
    await Promise.all([this.#parts.pools.blue.abandon(), this.#parts.pools.green.abandon()]);
  }

  async #finish(
    endpoint: string,
    statement: Statement,
    blue: ToldByBlue | undefined,
    early: Promise<ResultDigest> | undefined,
  ): Promise<void> {
    const { outcome, difference, rows, code } = await this.#judge.verdictOn(statement, blue, early);
    const { metrics, logger } = this.#parts;
    if (difference === undefined && outcome !== 'failed') {
      metrics.mirrored(endpoint, outcome);
      return;
    }
    const example = {
      endpoint,
      statement: nameOf(statement.query),
      ...(difference && { kind: difference.kind, columns: difference.columns }),
      ...(rows && { rows }),
      ...(code !== undefined && { code }),
    };
    metrics.mirrored(endpoint, outcome, example);
    if (outcome === 'same') logger.info(example, 'router: green answers a mirrored read in another order');
    else logger.warn(example, 'router: green answers a mirrored read differently');
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

/** A text may hold values. */
function nameOf(query: string | pg.QueryConfig): string {
  if (typeof query !== 'string' && query.name !== undefined) return query.name;
  const text = typeof query === 'string' ? query : query.text;
  return `sha256:${createHash('sha256').update(text).digest('hex').slice(0, 16)}`;
}
