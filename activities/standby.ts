import { setTimeout as sleep } from 'node:timers/promises';
import { parseDuration } from '../src/plan/duration.js';
import { parseSize } from '../src/postgres/lag.js';
import { isConnectionLost } from '../src/postgres/sqlstate.js';
import { lookAtStandby, type StandbyLimits, type StandbyState } from '../src/postgres/standby.js';
import { closeSession, openSession, type Session } from '../src/postgres/session.js';
import { VerdigrisError } from '../src/errors.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { perform, type ActivityDependencies, type Work } from './context.js';

/** Time between two looks at the feed. */
const LOOK_EVERY_MS = 1_000;

/** Activities of phase 7. */
export function standbyActivities(dependencies: ActivityDependencies) {
  return {
    /** Watches the feed from green to blue; returns when its health is no longer `known`, or every hour with the lag. */
    watchStandby: (ref: RunRef, known: string): Promise<StandbyState> =>
      perform(dependencies, ref, (work) => watch(work, ref, known)),
  };
}

async function watch(work: Work, ref: RunRef, known: string): Promise<StandbyState> {
  const limits = {
    maxLagMs: Math.max(5_000, parseDuration(ref.plan.replicate.maxLag)),
    maxRetainedWal: parseSize(ref.plan.replicate.maxRetainedWal),
  };
  const until = Date.now() + 3_600_000;
  const links = new StandbyLinks(work);
  try {
    for (;;) {
      work.signal.throwIfAborted();
      const state = await look(work, links, ref, limits);
      work.report({ health: state.health, lagSeconds: state.lagSeconds });
      if (state.health !== known || Date.now() > until) return state;
      await sleep(LOOK_EVERY_MS);
    }
  } finally {
    await links.close();
  }
}

async function look(work: Work, links: StandbyLinks, ref: RunRef, limits: StandbyLimits): Promise<StandbyState> {
  try {
    const { green, blue } = await links.open();
    return await lookAtStandby(green, blue, ref.plan.name, limits, work.signal);
  } catch (error) {
    await links.close();
    const away = isConnectionLost(error) || (error instanceof VerdigrisError && error.type === 'ConnectionFailed');
    if (!away || work.signal.aborted) throw error;
    const why = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
    return {
      health: 'unreachable',
      rollbackSafe: false,
      why: `the feed to blue can't be seen: ${why}`,
      lagSeconds: null,
    };
  }
}

/** The two sessions of the watch: kept from look to look, opened again after a server was away. */
class StandbyLinks {
  #sessions: { green: Session; blue: Session } | null = null;

  constructor(private readonly work: Work) {}

  async open(): Promise<{ green: Session; blue: Session }> {
    if (this.#sessions !== null) return this.#sessions;
    const green = await openSession(this.work.databases.green, { purpose: 'standby' });
    try {
      this.#sessions = { green, blue: await openSession(this.work.databases.blue, { purpose: 'standby' }) };
      return this.#sessions;
    } catch (error) {
      await closeSession(green);
      throw error;
    }
  }

  async close(): Promise<void> {
    const sessions = this.#sessions;
    this.#sessions = null;
    if (sessions !== null) await Promise.all([closeSession(sessions.green), closeSession(sessions.blue)]);
  }
}
