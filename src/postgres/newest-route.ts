import type { WritesAre } from './pools.js';
import { closeSession, openSession, useAgain, type Databases, type Session, type SessionOptions } from './session.js';
import { hasState, readRoute } from './state.js';
import type { Side } from '../side.js';
import { answerWithin } from '../timing.js';

/** A side that does not answer within this is not asked any more: the other one's row decides then. */
const ANSWER_MS = 1_000;

/**
 * Where writes are, by the route rows of both databases: the row with the higher epoch is the truth. Keeps its sessions,
 * since it is asked while clients wait.
 */
export class NewestRoute {
  readonly #sessions = new Map<Side, Promise<Session>>();
  readonly #taken: Session[] = [];

  constructor(
    private readonly databases: Databases,
    private readonly migration: string,
  ) {}

  /** A session of its own on that side, kept open. */
  async session(side: Side): Promise<Session> {
    const known = this.#sessions.get(side);
    if (known !== undefined) return known;
    const opening = openSession(this.databases[side], { purpose: 'where writes are', statementTimeoutMs: ANSWER_MS });
    this.#sessions.set(side, opening);
    opening.catch(() => this.#sessions.delete(side));
    return opening;
  }

  /** Undefined when no side that answers knows a route. */
  async read(): Promise<WritesAre | undefined> {
    const found = await Promise.all((['blue', 'green'] as const).map((side) => this.#readOne(side)));
    return found
      .flat()
      .reduce<WritesAre | undefined>((a, b) => (a !== undefined && a.epoch >= b.epoch ? a : b), undefined);
  }

  async #readOne(side: Side): Promise<WritesAre[]> {
    try {
      return await answerWithin(ANSWER_MS, this.#ask(side), () => new Error('no answer'));
    } catch {
      this.#forget(side);
      return [];
    }
  }

  async #ask(side: Side): Promise<WritesAre[]> {
    const session = await this.session(side);
    if (!(await hasState(session))) return [];
    const route = await readRoute(session, this.migration);
    return route === undefined ? [] : [{ side: route.writesOn, epoch: route.epoch }];
  }

  #forget(side: Side): void {
    this.#sessions
      .get(side)
      ?.then(closeSession)
      .catch(() => undefined);
    this.#sessions.delete(side);
  }

  /**
   * Its session on that side, for whoever goes on after the question: it asks with it no more, and closes it with the others.
   *
   * @returns undefined where there is none, or it can't be used any more
   */
  async take(side: Side, options: Omit<SessionOptions, 'socket'>): Promise<Session | undefined> {
    const opening = this.#sessions.get(side);
    if (opening === undefined) return undefined;
    this.#sessions.delete(side);
    try {
      const session = await opening;
      this.#taken.push(session);
      return await useAgain(session, options);
    } catch {
      options.cutOn?.throwIfAborted();
      return undefined;
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.closeRest(), ...this.#taken.splice(0).map(closeSession)]);
  }

  /** Closes those that nobody has taken. */
  async closeRest(): Promise<void> {
    const opening = [...this.#sessions.values()];
    // At once: nobody can take one that is about to be closed.
    this.#sessions.clear();
    const open = await Promise.allSettled(opening);
    await Promise.all(open.map((result) => (result.status === 'fulfilled' ? closeSession(result.value) : undefined)));
  }
}
