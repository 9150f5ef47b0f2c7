import { VerdigrisError } from '../errors.js';
import { answerWithin } from '../timing.js';
import type { QueryResult, QueryResultRow } from 'pg';
import type { Session } from './session.js';
import { CANCELED, sqlState } from './sqlstate.js';

/** How much longer than the server's own deadline we wait for its answer before the connection counts as cut. */
const ANSWER_GRACE_MS = 500;

/** A worker that is well, and finds that its time is over, ends the try in words and not by a session that is gone. */
const LEAST_IDLE_MS = 100;

/**
 * The time during which writes wait. The server enforces it, since a frozen worker can't: every statement of the hold
 * carries the time that is left as its statement_timeout, on every session.
 */
export class Hold {
  readonly #began = performance.now();
  readonly #deadline: number;
  readonly #steps: Record<string, number> = {};

  constructor(readonly maxMs: number) {
    this.#deadline = this.#began + maxMs;
  }

  /** Milliseconds since it began. */
  elapsed(): number {
    return performance.now() - this.#began;
  }

  /** What each step has taken, ms, in their order. */
  get steps(): Readonly<Record<string, number>> {
    return this.#steps;
  }

  /** Does one step, unless the time is over. */
  async step(name: string, work: () => Promise<void>): Promise<void> {
    if (this.isOver()) throw new StandsInTheWay(`the hold took longer than ${this.maxMs} ms`);
    try {
      await this.afterDecision(name, work);
    } catch (error) {
      if (sqlState(error) !== CANCELED) throw error;
      throw new StandsInTheWay(`a statement of its step "${name}" did not end within maxHold, ${this.maxMs} ms`, error);
    }
  }

  /**
   * Does several things at once. The first one that fails ends the step: the signal keeps the others from sending their
   * next statement, and writers do not wait for what is under way.
   */
  async atOnce(...works: readonly ((over: AbortSignal) => Promise<void>)[]): Promise<void> {
    const over = new AbortController();
    try {
      await Promise.all(works.map((work) => work(over.signal)));
    } finally {
      over.abort();
    }
  }

  /** From the decision on the only way is forward, however long it takes. */
  async afterDecision(name: string, work: () => Promise<unknown>): Promise<void> {
    const began = performance.now();
    await work();
    this.#steps[name] = performance.now() - began;
  }

  /** Milliseconds until writes must go on; at least 1. */
  left(): number {
    return Math.max(1, Math.floor(this.#deadline - performance.now()));
  }

  isOver(): boolean {
    return performance.now() >= this.#deadline;
  }

  /** Runs one statement (without parameters) within the time that is left, in a transaction of its own. */
  async query<R extends QueryResultRow = QueryResultRow>(session: Session, sql: string): Promise<QueryResult<R>> {
    return this.#answer(session, `SET statement_timeout = ${this.left()}; ${sql}`);
  }

  /** The same in the transaction that is open on the session. */
  async queryInTransaction<R extends QueryResultRow = QueryResultRow>(
    session: Session,
    sql: string,
  ): Promise<QueryResult<R>> {
    return this.#answer(session, `${this.#limits()}; ${sql}`);
  }

  /** Several statements in the transaction that is open on the session, in one message. @returns what each answers. */
  async queriesInTransaction(session: Session, statements: readonly string[]): Promise<QueryResult[]> {
    return (await this.#answers(session, [this.#limits(), ...statements].join('; '))).slice(2);
  }

  /** Of the transaction's next statement, and of a worker that freezes after it: until 17 nothing bounds the whole. */
  #limits(): string {
    const left = this.left();
    const idle = Math.max(LEAST_IDLE_MS, left);
    return `SET LOCAL statement_timeout = ${left}; SET LOCAL idle_in_transaction_session_timeout = ${idle}`;
  }

  /** The same with a limit of its own, for something that takes a few milliseconds or is not worth waiting for. */
  async queryAtMost<R extends QueryResultRow = QueryResultRow>(
    session: Session,
    ms: number,
    sql: string,
  ): Promise<QueryResult<R>> {
    return this.#answer(session, `SET statement_timeout = ${Math.min(ms, this.left())}; ${sql}`);
  }

  /** Gives every later statement of the session the time that is left now. */
  async limit(session: Session): Promise<void> {
    await this.query(session, 'SELECT');
  }

  /** Waits for an answer, but not longer than the hold: the other end of a cut connection never answers. */
  within<T>(answer: Promise<T>): Promise<T> {
    return answerWithin(
      this.left() + ANSWER_GRACE_MS,
      answer,
      () => new StandsInTheWay('the server did not answer in time: is the network cut?'),
    );
  }

  async #answer<R extends QueryResultRow>(session: Session, sql: string): Promise<QueryResult<R>> {
    // The last one is what was asked.
    return (await this.#answers(session, sql)).at(-1) as QueryResult<R>;
  }

  /** With several statements in one message, node-postgres answers with a list. */
  async #answers(session: Session, sql: string): Promise<QueryResult[]> {
    const result: unknown = await this.within(session.query(sql));
    return (Array.isArray(result) ? result : [result]) as QueryResult[];
  }
}

/** How long people wait to be told who stood in the way. */
const DIAGNOSIS_MS = 1_000;

/**
 * Why a hold ended without a decision. Who stood in the way is asked when the writers go on: they must not wait for the
 * answer.
 */
export class StandsInTheWay extends Error {
  override readonly name = 'StandsInTheWay';
  readonly #who: (() => Promise<string>) | undefined;

  constructor(why: string, cause?: unknown, who?: () => Promise<string>) {
    super(why, { cause });
    this.#who = who;
  }

  /** The error for people. Whatever ended the hold (a timeout, a lost connection): nothing has happened, it was a try. */
  static async explained(error: unknown): Promise<VerdigrisError> {
    if (error instanceof VerdigrisError) return error;
    if (!(error instanceof StandsInTheWay)) {
      return promotionBlocked(error instanceof Error ? error.message : String(error), error);
    }
    const asked = error.#who?.() ?? Promise.resolve('');
    const who = await answerWithin(DIAGNOSIS_MS, asked, () => error).catch(() => '');
    return promotionBlocked(`${error.message}${who === '' ? '' : `. ${who}`}`, error.cause ?? error);
  }
}

/** A try of a promotion that could not go on; nothing has happened, and another try may succeed. */
export function promotionBlocked(why: string, cause?: unknown): VerdigrisError {
  return new VerdigrisError({
    type: 'PromotionBlocked',
    message: `the promotion could not go through: ${why}`,
    nextStep: 'remove what stands in the way, then approve the promotion again; writes go on as before',
    cause,
  });
}
