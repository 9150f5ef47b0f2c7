import type { Route } from '../postgres/state.js';
import { within } from '../timing.js';
import { writeFlagdFile } from './flagd-file.js';
import type { FlagState } from './flagd-flags.js';

/** Reads the route in force; undefined where no run has one. */
export type RouteReader = () => Promise<Route | undefined>;

/** Taking reads back does not wait longer for a file: routers and gates have what they need before. */
const TAKE_BACK_MS = 1_000;
/** How long the process goes on trying to write a file, and how often. */
const TRY_FOR_MS = 60 * 60_000;
const TRY_EVERY_MS = 5_000;

/** The latest state of each file that could not be written yet. */
const owed = new Map<string, FlagState>();

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
 * The same after reads were taken back, which must not fail or wait by a file: after a second this returns, and the
 * process goes on trying.
 *
 * @returns a warning for people when the file is not written yet.
 */
export async function writeFlagsOrWarn(
  path: string,
  state: FlagState,
  timing: { readonly waitMs?: number; readonly tryEveryMs?: number; readonly tryForMs?: number } = {},
): Promise<string | undefined> {
  const { waitMs = TAKE_BACK_MS, tryEveryMs = TRY_EVERY_MS, tryForMs = TRY_FOR_MS } = timing;
  const attempt = writeFlagdFile(path, state).then(
    () => undefined,
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );
  const late = `the file for flagd, ${path}, could not be written within ${waitMs} ms`;
  const warning = await within(attempt, waitMs, late);
  if (warning === undefined) {
    owed.delete(path);
    return undefined;
  }
  owed.set(path, state);
  void keepTrying(path, state, tryEveryMs, Date.now() + tryForMs);
  return `${warning}\nUntil it is written, flagd sends users of the old stage to green; this worker goes on trying.`;
}

/** Until the file is written, a later state is owed, or the time is over. The file itself refuses an older route. */
async function keepTrying(path: string, state: FlagState, everyMs: number, until: number): Promise<void> {
  while (Date.now() < until) {
    await new Promise<void>((resolve) => setTimeout(resolve, everyMs).unref());
    if (owed.get(path) !== state) return;
    const isWritten = await writeFlagdFile(path, state).then(
      () => true,
      () => false,
    );
    if (isWritten) break;
  }
  if (owed.get(path) === state) owed.delete(path);
}
