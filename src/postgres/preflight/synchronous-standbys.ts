import { directionTo } from '../feed.js';
import { otherSide } from '../../side.js';
import { isInRecovery } from '../in-recovery.js';
import { streamNames } from '../streams.js';
import {
  hang,
  placeOf,
  readFollowingStandbys,
  readStandbys,
  WITHOUT_STANDBY,
  type SynchronousStandbys,
} from '../synchronous-standbys.js';
import { BOTH_SIDES, type Found, type SideCheck, type SideContext } from './check.js';

const SETTING = 'synchronous_standby_names';

/** For whom commits wait: for nobody who is there, or for the feed of the run itself. */
export const synchronousStandbys: SideCheck = {
  name: 'synchronous-standbys',
  sides: BOTH_SIDES,
  run: async (context) => {
    const standbys = await readStandbys(context.session);
    if (standbys === undefined) return [];
    const following = await readFollowingStandbys(context.session, standbys);
    const hangs = following.length < standbys.needed ? [await commitsHang(context, standbys, following)] : [];
    return [...hangs, ...countedFeed(context, standbys, following)];
  },
};

async function commitsHang(
  { session, side }: SideContext,
  standbys: SynchronousStandbys,
  following: readonly string[],
): Promise<Found> {
  const found = { severity: 'error', object: SETTING } as const;
  if (await isInRecovery(session)) {
    return {
      ...found,
      message: `${side} is a copy with blue's settings: while it is a standby this one does nothing, but from its promotion on, which can't be taken back, ${hang(standbys, following)}: the run would stand still there`,
      remedy: `On ${side} itself, since what is changed on blue later does not come there: ${WITHOUT_STANDBY}; replicas of ${side} are named when they follow it`,
    };
  }
  return {
    ...found,
    message: `${hang(standbys, following)}: those of the run would never end`,
    remedy: `Bring them back, or name those who follow; without one: ${WITHOUT_STANDBY}`,
  };
}

/** PostgreSQL takes a subscription for a standby, where its name is meant; of equal places in the list whoever came into a lower slot of WAL senders. */
function countedFeed(
  { side, plan }: SideContext,
  standbys: SynchronousStandbys,
  following: readonly string[],
): readonly Found[] {
  const other = otherSide(side);
  const names = streamNames(plan.name, directionTo(other), plan.replicate.streams);
  const places = names.map((name) => placeOf(name, standbys)).filter((place) => place > 0);
  if (places.length === 0) return [];
  const before = following.filter((name) => placeOf(name, standbys) < Math.min(...places));
  const isAwaited = standbys.method === 'first' && before.length < standbys.needed;
  const when = side === 'blue' ? 'commits on blue' : 'from the promotion on, commits on green';
  const harm = isAwaited
    ? `can wait for ${other}, take longer by what ${other} needs to write and to answer, and stop where ${other} does`
    : `can be acknowledged by ${other}'s feed in place of a replica, which may lack them when it takes over`;
  return [
    {
      severity: isAwaited && side === 'blue' ? 'error' : 'warning',
      object: SETTING,
      message: `${SETTING} = '${standbys.setting}' means the run's feed to ${other} as well, as PostgreSQL takes a subscription for a standby: ${when} ${harm}`,
      remedy: `Name the replicas instead of *, as in ${SETTING} = 'FIRST 1 (replica1, replica2)', and reload`,
    },
  ];
}
