import { otherSide, type Side } from '../side.js';
import { directionTo, feedName } from './feed.js';
import { literal } from './identifier.js';
import { holdsActorLock, openActorSession } from './ownership.js';
import type { Promotion } from './promotion.js';
import { closeSession, openSession, SHORT_STATEMENTS, type Databases, type Session } from './session.js';
import { streamsOfRun } from './streams.js';

/** Sessions of one try: `main` holds the transaction, `aside` writes the marker and reads, `to` is the new side. */
export interface Sessions extends Actors {
  readonly aside: Session;
  /** One on the new side for each slot of the way back, `to` first: made in turn, many would take too long. */
  readonly slots: readonly SlotSession[];
}

export interface Actors {
  readonly main: Session;
  readonly to: Session;
}

export interface SlotSession {
  readonly session: Session;
  /** The statement that makes the slot. */
  readonly make: string;
}

/** Has a session closed at the end of the try. */
export type Keep = (opening: Promise<Session>) => Promise<Session>;

/** The sessions of one try, and their end. */
export function keptSessions(): { readonly keep: Keep; readonly closeAll: () => Promise<void> } {
  const open: Session[] = [];
  return {
    keep: async (opening) => {
      const session = await opening;
      open.push(session);
      return session;
    },
    closeAll: async () => {
      await Promise.all(open.map(closeSession));
    },
  };
}

/** These two hold the actors' locks: to end the holder of a late worker's lock is to end its promotion. */
export async function openActors(databases: Databases, from: Side, keep: Keep, signal?: AbortSignal): Promise<Actors> {
  return {
    main: await keep(openActorSession(databases[from], 'promotion', signal)),
    to: await keep(openActorSession(databases[otherSide(from)], 'promotion', signal)),
  };
}

/** The sessions that a try needs beside them: opened before writers are asked to wait. */
export async function openSessions(actors: Actors, promotion: Promotion, keep: Keep): Promise<Sessions> {
  const { databases, from } = promotion;
  return {
    ...actors,
    aside: await keep(openSession(databases[from], { purpose: 'promotion marker', ...SHORT_STATEMENTS })),
    slots: await openSlotSessions(actors.to, promotion, keep),
  };
}

/**
 * A slot is made only while `to` holds the actor's lock: the session of a worker that was frozen makes none later. Only
 * `to` drops them, for the same reason: a late worker must not drop what another one has made.
 */
async function openSlotSessions(to: Session, promotion: Promotion, keep: Keep): Promise<SlotSession[]> {
  if (!promotion.feedBack) return [];
  const actor = await holdsActorLock(to);
  const sessions: SlotSession[] = [];
  for (const slot of await streamsOfRun(to, wayBack(promotion))) {
    const side = promotion.databases[otherSide(promotion.from)];
    sessions.push({
      session:
        sessions.length === 0 ? to : await keep(openSession(side, { purpose: 'promotion slot', ...SHORT_STATEMENTS })),
      make: `SELECT pg_create_logical_replication_slot(${literal(slot)}, 'pgoutput') WHERE ${actor}`,
    });
  }
  return sessions;
}

/** The feed that the new side will fill the old one by. */
export function wayBack(promotion: Promotion): string {
  return feedName(promotion.migration, directionTo(promotion.from));
}
