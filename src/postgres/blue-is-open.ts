import { isFenceOpen } from './fence.js';
import type { Run } from './ownership.js';
import type { Session } from './session.js';
import { hasState, readOwner, readRoute } from './state.js';

/**
 * Why blue takes the application's writes although green has them: a backup of before the decision, or a replica that lacked
 * it, has its fence open under blue's name, or none. Undefined where it does not, or is another run's by then.
 *
 * @param since the epoch in which green has got the writes; nothing is asked where that is not known
 */
export async function whyBlueIsOpen(
  blue: Session,
  { runId, migration }: Run,
  since: number,
): Promise<string | undefined> {
  if (!Number.isFinite(since)) return undefined;
  if (!(await hasState(blue))) {
    return 'blue takes writes beside green: schema verdigris is gone there, and the fence with it: it was restored, or somebody has removed it';
  }
  const owner = await readOwner(blue);
  if ((owner !== undefined && owner.runId !== runId) || !(await isFenceOpen(blue))) return undefined;
  const route = await readRoute(blue, migration);
  if (route?.writesOn !== 'blue') return 'blue takes writes beside green: somebody has opened its fence';
  // Given back since: that is told by whoever asks for the route.
  if (route.epoch > since) return undefined;
  return `blue takes writes beside green: it knows nothing of what was decided for epoch ${since}, so it was restored, or has failed over to a server that was behind`;
}
