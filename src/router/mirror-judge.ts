import { CANCELED, READ_ONLY, sqlState } from '../postgres/sqlstate.js';
import type { Side } from '../side.js';
import type { BluePosition } from './blue-position.js';
import type { AloneQuery } from './connection.js';
import { isLinkFailure, NothingSent } from './failure.js';
import type { GreenProgress } from './green-progress.js';
import type { MirrorOutcome } from './metrics.js';
import {
  differenceOf,
  digestOf,
  mayBothBeRight,
  type ResultDifference,
  type ResultDigest,
} from './result-difference.js';
import type { Routes } from './routes.js';
import { send } from './send.js';
import type { SidePool } from './side-pool.js';
import { hasValues, textOf, type Statement } from './statement.js';
import { pause } from '../timing.js';

export interface JudgeParts {
  readonly routes: Routes;
  /** Of the mirror's own, so that no request ever waits for one that it has. */
  readonly pools: Readonly<Record<Side, SidePool>>;
  readonly greenProgress: GreenProgress;
  readonly bluePosition: BluePosition;
}

const STATEMENT_MS = 2_000;
/** What takes blue longer may take green longer than it is given here, without being any slower. */
export const QUICK_MS = STATEMENT_MS / 2;
/** A server that is frozen does not end a statement by itself. */
export const MIRROR_ANSWER_MS = STATEMENT_MS + 500;
const CATCH_UP_MS = 1_000;
const TRIES = 3;

/** What blue has told the caller. */
export interface ToldByBlue {
  readonly digest: ResultDigest;
  readonly isQuick: boolean;
}

export interface Verdict {
  readonly outcome: MirrorOutcome;
  readonly difference?: ResultDifference;
  readonly rows?: Readonly<Record<Side, number>>;
  readonly code?: string | undefined;
}

const SKIPPED: Verdict = { outcome: 'skipped' };

/** Says whether green answers a read as blue does. */
export class MirrorJudge {
  readonly #parts: JudgeParts;

  constructor(parts: JudgeParts) {
    this.#parts = parts;
  }

  /**
   * Never rejects.
   *
   * @param blue undefined where blue has told the caller nothing that can be compared
   * @param early green's answer, where it was asked first
   */
  verdictOn(
    statement: Statement,
    blue: ToldByBlue | undefined,
    early: Promise<ResultDigest> | undefined,
  ): Promise<Verdict> {
    return this.#judge(statement, blue, early).catch((error: unknown) => ofFailure(error));
  }

  /**
   * Answers that differ may do so because green was a moment behind, or because the row changes all the time. So both
   * sides are asked again: blue, then green when it has caught up with that, then blue. Only if blue's two answers are
   * equal, and green's is another, do they differ. The same where green, and it alone, takes longer than it is given: it
   * has failed if it does so again.
   */
  async #judge(
    statement: Statement,
    blue: ToldByBlue | undefined,
    early: Promise<ResultDigest> | undefined,
  ): Promise<Verdict> {
    if (blue === undefined) {
      await early?.catch(() => undefined);
      return SKIPPED;
    }
    const green = await inTime(early ?? this.read('green', statement));
    if (green === undefined && !blue.isQuick) return SKIPPED;
    const text = textOf(statement.query);
    const first = green && compared(blue.digest, green, text);
    if (first?.outcome === 'same') return first;
    for (let tries = 0; tries < TRIES; tries++) {
      const before = await this.#askBlue(statement);
      if (before === undefined) return SKIPPED;
      if (!(await this.#hasCaughtUp())) return { outcome: 'unsettled' };
      const again = await inTime(this.read('green', statement));
      if (again === undefined) return green === undefined ? { outcome: 'failed', code: CANCELED } : SKIPPED;
      const after = await this.#askBlue(statement);
      if (after === undefined) return SKIPPED;
      const verdict = compared(before, again, text);
      if (verdict.outcome === 'same' || compared(before, after, text).outcome === 'same') return verdict;
      await pause(20, 50);
    }
    return { outcome: 'unsettled' };
  }

  /** Undefined where blue has no answer, for whatever reason: that says nothing of green. */
  #askBlue(statement: Statement): Promise<ResultDigest | undefined> {
    return this.read('blue', statement).catch(() => undefined);
  }

  async #hasCaughtUp(): Promise<boolean> {
    const { bluePosition, greenProgress, routes } = this.#parts;
    const position = await bluePosition.now();
    return position !== undefined && greenProgress.reached(routes.current.epoch, position, CATCH_UP_MS);
  }

  /** In a transaction that only reads and is given little time, by a connection of the mirror's own. */
  read(side: Side, statement: Statement): Promise<ResultDigest> {
    const { query, values } = alone(statement);
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

/** Of several statements in one text, a COMMIT would end the transaction that only reads, and the rest could write. */
function alone({ query, values }: Statement): Statement {
  // With values it is sent so in any case.
  if (hasValues({ query, values })) return { query, values };
  // Of a template's object, text and name may be inherited.
  const config = typeof query === 'string' ? { text: query } : { ...query, text: query.text, name: query.name };
  const one: AloneQuery = { ...config, queryMode: 'extended' };
  return { query: one, values };
}

/** Rows that both sides may well have in another order are the same, and it is told. */
function compared(blue: ResultDigest, green: ResultDigest, text: string): Verdict {
  const difference = differenceOf(blue, green, text);
  if (difference === undefined) return { outcome: 'same' };
  const rows = { blue: blue.rows.length, green: green.rows.length };
  return { outcome: mayBothBeRight(difference) ? 'same' : 'different', difference, rows };
}

/** Undefined where green has taken longer than it is given. */
function inTime(green: Promise<ResultDigest>): Promise<ResultDigest | undefined> {
  return green.catch((error: unknown) => {
    if (sqlState(error) === CANCELED) return undefined;
    throw error;
  });
}

const BEGIN = `BEGIN TRANSACTION READ ONLY; SET LOCAL statement_timeout = ${STATEMENT_MS}`;

/** A function that is read may take locks of the session: they outlive its transaction. */
const END = 'ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()';

/** A side that is away, or a read that writes, says nothing about what green would answer. */
function ofFailure(error: unknown): Verdict {
  const code = sqlState(error);
  const saysNothing = error instanceof NothingSent || isLinkFailure(error) || code === READ_ONLY;
  return saysNothing ? SKIPPED : { outcome: 'failed', code };
}
