import type { Route } from '../postgres/state.js';
import { within } from '../timing.js';
import { writeFlagdFile } from './flagd-file.js';
import type { FlagState } from './flagd-flags.js';

/** Reads the route in force; undefined where no run has one. */
export type RouteReader = () => Promise<Route | undefined>;

/** Taking reads back does not wait longer for a file: routers and gates have what they need before. */
const TAKE_BACK_MS = 1_000;
/**
 * Brings the file to the route in force, and looks again when it is written: a route that another worker changed in
 * between is written too, so the last writer leaves the last route, whoever it is.
 *
 * @throws VerdigrisError FlagsNotWritten
 */
export async function writeFlags(path: string, run: string, routeInForce: RouteReader): Promise<void> {
  let route = await routeInForce();
  while (route !== undefined) {
    await writeFlagdFile(path, { run, route });
    const now = await routeInForce();
    if (now === undefined || (now.epoch === route.epoch && now.generation === route.generation)) return;
    route = now;
  }
}

/**
 * The same after reads were taken back, which must not fail or wait by a file: after a second this returns.
 *
 * @returns why the file is not written yet; null when it is. Somebody has to go on trying then.
 */
export async function writeFlagsOrTell(path: string, state: FlagState, waitMs = TAKE_BACK_MS): Promise<string | null> {
  const attempt = writeFlagdFile(path, state).then(
    () => null,
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );
  return within(attempt, waitMs, `the file for flagd, ${path}, could not be written within ${waitMs} ms`);
}
