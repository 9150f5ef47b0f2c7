import { withSession, type Databases, type Session } from '../postgres/session.js';
import { hasState, readRoute, type Route } from '../postgres/state.js';
import type { Side } from '../side.js';

/** Which share of the new connections green shall have, and for which state of the route that is. */
export interface Share {
  readonly percent: number;
  /** Differs when anything has changed in between. */
  readonly stamp: string;
}

export type ShareReader = () => Promise<Share>;

/** Reads follow the writes: green has a stage's share while blue has the writes, and all once it has them itself. */
export function shareOf(route: Route | undefined): Share {
  // Before a run has a route, and after it has been rolled back, everything is on blue.
  if (route === undefined) return { percent: 0, stamp: 'no route' };
  const percent = route.writesOn === 'green' ? 100 : route.greenReadPercent;
  return { percent, stamp: `${route.epoch}/${route.generation}` };
}

/** Reads the share by a session on the side that has writes. Asked at the same time by several, it asks one by one. */
export function shareReader(session: Session, migration: string): ShareReader {
  return oneByOne(async () => shareOf((await hasState(session)) ? await readRoute(session, migration) : undefined));
}

/**
 * Reads the share by sessions of its own, from both sides.
 *
 * @throws Error when blue, whose row alone has the percentage, does not answer and green does not have the writes
 */
export function shareReaderOf(databases: Databases, migration: string): ShareReader {
  const routeOn = (side: Side): Promise<Route | undefined> =>
    withSession(databases[side], { purpose: 'weights', statementTimeoutMs: 2_000 }, async (session) =>
      (await hasState(session)) ? readRoute(session, migration) : undefined,
    );
  return oneByOne(async () => {
    const [blue, green] = await Promise.allSettled([routeOn('blue'), routeOn('green')]);
    const onGreen = green.status === 'fulfilled' ? green.value : undefined;
    if (blue.status === 'rejected') {
      if (onGreen?.writesOn === 'green') return shareOf(onGreen);
      throw blue.reason;
    }
    const isNewer = onGreen !== undefined && onGreen.epoch > (blue.value?.epoch ?? 0);
    return shareOf(isNewer ? onGreen : blue.value);
  });
}

/** One session answers one question at a time. */
function oneByOne(read: ShareReader): ShareReader {
  let before: Promise<unknown> = Promise.resolve();
  return () => {
    const answer = before.then(read, read);
    before = answer;
    return answer;
  };
}
