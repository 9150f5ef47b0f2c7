import { log } from '@temporalio/activity';
import { writeFlags, writeFlagsOrWarn } from '../src/flags/flagd-driver.js';
import { readRoute } from '../src/postgres/state.js';
import type { Session } from '../src/postgres/session.js';
import type { RunRef } from '../workflows/lib/run-ref.js';

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

/** The same on the way back, and after writes have moved: never a reason to fail, nor to wait for long. */
export async function flagsFollowRouteOrWarn(
  { plan, runId }: RunRef,
  openSession: () => Promise<Session>,
): Promise<void> {
  const { flagd } = plan.traffic;
  if (flagd === undefined) return;
  try {
    const route = await readRoute(await openSession(), plan.name);
    const warning = route && (await writeFlagsOrWarn(flagd.path, { run: runId, route }));
    if (warning !== undefined) log.warn(warning, { migration: plan.name });
  } catch {
    log.warn(`the route could not be read for flagd's file, ${flagd.path}: it may be of an older stage`, {
      migration: plan.name,
    });
  }
}
