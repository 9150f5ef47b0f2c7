import { writeFlags, writeFlagsOrTell } from '../src/flags/flagd-driver.js';
import { notWritten, writeFlagdFile } from '../src/flags/flagd-file.js';
import { readRoute, type Route } from '../src/postgres/state.js';
import type { Session } from '../src/postgres/session.js';
import { within } from '../src/timing.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { alive, type ActivityDependencies } from './context.js';

/**
 * Brings flagd's file, where the plan names one, to the route in force. Asked before a stage moves anything, it shows
 * that the file can be written.
 *
 * @param session on the side that has writes
 * @throws VerdigrisError FlagsNotWritten
 */
export async function flagsFollowRoute({ plan, runId }: RunRef, session: Session): Promise<void> {
  const { flagd } = plan.traffic;
  if (flagd !== undefined) await writeFlags(flagd.path, runId, () => readRoute(session, plan.name));
}

/** What flagd's file does not say yet, although reads or writes have moved. Plain data. */
export interface FlagsOwed {
  readonly route: Route;
  /** Why it could not be written at once, for people. */
  readonly why: string;
}

/**
 * The same on the way back, and after writes have moved: never a reason to fail, nor to wait for long.
 *
 * @param route in force now, by the side that has writes; undefined where it has none
 * @returns what is still to be written; null when nothing is
 */
export async function flagsFollowOrTell({ plan, runId }: RunRef, route: Route | undefined): Promise<FlagsOwed | null> {
  const { flagd } = plan.traffic;
  if (flagd === undefined || route === undefined) return null;
  const why = await writeFlagsOrTell(flagd.path, { run: runId, route });
  return why === null ? null : { route, why };
}

/** A file system that is gone may never answer. */
const ANSWERS_WITHIN_MS = 20_000;

export function flagsActivities(dependencies: ActivityDependencies) {
  return {
    /**
     * Writes flagd's file for a route that the databases have had for a while, and may not have any more. A file that
     * the run has written for a later route stays.
     *
     * @throws ApplicationFailure FlagsNotWritten: retryable as long as the folder may become writable
     */
    writeOwedFlags: ({ plan, runId }: RunRef, route: Route): Promise<void> =>
      alive(dependencies, async () => {
        const { flagd } = plan.traffic;
        if (flagd === undefined) return;
        const written = writeFlagdFile(flagd.path, { run: runId, route });
        const late = notWritten(
          flagd.path,
          `: no answer within ${ANSWERS_WITHIN_MS / 1_000} s`,
          'see what its file system does',
          true,
        );
        const outcome = await within<unknown, unknown>(written, ANSWERS_WITHIN_MS, late);
        if (outcome === late) throw late;
      }),
  };
}
