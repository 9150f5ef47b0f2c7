import { closeSession, openSession, type Databases, type Session } from '../src/postgres/session.js';
import type { Side } from '../src/side.js';

export type OpenSession = (side: Side) => Promise<Session>;

/** No question to a server may take longer. */
const QUESTION_MS = 5_000;

/** The sessions of the sources that a stage's gates ask: each source has its own, so that none waits for another one. */
export class SourceSessions {
  readonly #open = new Set<Session>();

  /** @param signal aborted when nothing is to be asked any more: close() comes after it */
  constructor(
    private readonly databases: Databases,
    private readonly signal: AbortSignal,
  ) {}

  /** A source's question with its sessions: opened when they are needed, and anew after any error. */
  asking<T>(purpose: string, ask: (session: OpenSession) => Promise<T>): () => Promise<T> {
    const open = new Map<Side, Session>();
    const session: OpenSession = async (side) => {
      const known = open.get(side);
      if (known !== undefined) return known;
      const opened = await openSession(this.databases[side], { purpose, statementTimeoutMs: QUESTION_MS });
      open.set(side, opened);
      this.#open.add(opened);
      return opened;
    };
    return async () => {
      try {
        this.signal.throwIfAborted();
        return await ask(session);
      } catch (error) {
        const failed = [...open.values()];
        open.clear();
        for (const one of failed) this.#open.delete(one);
        await Promise.all(failed.map(closeSession));
        throw error;
      } finally {
        // Opened while the whole was being closed.
        if (this.signal.aborted) await Promise.all([...open.values()].map(closeSession));
      }
    };
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open].map(closeSession));
  }
}
