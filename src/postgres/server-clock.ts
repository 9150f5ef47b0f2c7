import type { Session } from './session.js';

/**
 * The clock of a server, read once: it goes on by a clock of this machine that nobody sets. Moments that a server has
 * written down are compared with it, since a worker's own clock may be hours off.
 *
 * @returns ms since 1970, whenever it is called
 */
export async function serverClock(session: Session): Promise<() => number> {
  const { rows } = await session.query<{ now: number }>(
    'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS now',
  );
  const read = performance.now();
  const now = rows[0]?.now ?? Date.now();
  return () => now + performance.now() - read;
}
