import { setTimeout as sleep } from 'node:timers/promises';
import { otherSide, type Side } from '../../side.js';
import type { Route } from '../state.js';
import type { Databases } from '../session.js';
import { examine, type Found, type Inventory, type SideFound } from './inventory.js';
import { handedOn } from './handed-on.js';
import { RELEASED } from './read-state.js';
import { WITHOUT_STANDBY } from '../synchronous-standbys.js';

/*
 * Who is primary, from the two databases alone. What makes it certain:
 *
 *   A side gives writes away in one COMMIT of its own, which writes its route row and closes it; only then the other
 *   one is opened. So a side whose own row gives it the writes, and which is open, has them: nobody can have been
 *   given them without that row saying so.
 *
 * Of two rows the one with the higher epoch is the truth. A row that gives writes to the other side says nothing about
 * whether that side has been opened: that must be seen there.
 */

export type Verdict =
  /** One side takes writes, and no other may. */
  | { readonly kind: 'certain'; readonly primary: Side; readonly epoch: number | null; readonly why: string }
  /** `side` has been given the writes and is not open yet, or has been closed without a decision. */
  | Unopened
  /** Applications can write on both sides. */
  | { readonly kind: 'both'; readonly truth: Side; readonly epoch: number; readonly why: string; readonly next: string }
  | {
      readonly kind: 'unknown';
      readonly why: string;
      readonly next: string;
      /** No side has a word of a run that is under way: it is not Verdigris that keeps anybody from writing. */
      readonly noRun?: true;
      /** Nothing is wrong for all that: no run, the last step of a move, or a later migration knows. */
      readonly isCalm?: true;
    };

export interface Unopened {
  readonly kind: 'nobody';
  readonly side: Side;
  readonly epoch: number;
  /** False: the side's own row already gives it the writes, and only its flag is closed. */
  readonly decidedElsewhere: boolean;
  readonly why: string;
  readonly next: string;
}

/** Looks until the answer is certain, at most three times: between two looks a run may have moved the writes. */
export async function whoIsPrimary(
  databases: Databases,
): Promise<{ readonly found: Found; readonly verdict: Verdict }> {
  for (let look = 1; ; look++) {
    const found = await examine(databases);
    const verdict = judge(found);
    const away = !found.blue.reached || !found.green.reached;
    if (verdict.kind === 'certain' || away || look === 3) return { found, verdict };
    await sleep(300);
  }
}

/** The verdict on what was found. Pure. */
export function judge(found: Found): Verdict {
  const { blue, green } = found;
  const mixedUp = mixUp(found);
  if (mixedUp !== undefined) return mixedUp;
  if (blue.reached && green.reached) return judgeBoth(blue.inventory, green.inventory);
  if (blue.reached) {
    const isStandby = !green.reached && green.standby !== undefined;
    return isStandby ? judgeBesideStandby(blue.inventory) : judgeOne(blue.inventory, green);
  }
  if (green.reached) return judgeOne(green.inventory, blue);
  if (green.standby !== undefined) {
    return unknown("blue can't be reached, and green is a physical standby of it", 'bring blue back and ask again');
  }
  return unknown('neither side can be reached', 'bring one of them back and ask again');
}

/** Names swapped, or databases of two migrations: then no row says anything about the other side. */
export function mixUp(found: Found): Extract<Verdict, { kind: 'unknown' }> | undefined {
  const on = handedOn(found);
  if (on !== undefined) {
    return calm(
      `${on.side} has been handed on from migration "${on.before}" to "${on.now}", which alone knows where writes are`,
      `ask with the plan of "${on.now}"; what "${on.before}" has left on ${otherSide(on.side)}: verdigris doctor --clean`,
    );
  }
  const next = notBegun(found);
  if (next !== undefined) return next;
  const inventories = [found.blue, found.green].flatMap((side) => (side.reached ? [side.inventory] : []));
  for (const { side, owner } of inventories) {
    if (owner !== null && owner.side !== side) {
      return unknown(
        `the connection given as ${side} is the ${owner.side} of migration "${owner.migration}"`,
        'exchange the two names, or give the plan of that migration',
      );
    }
  }
  const [one, two] = inventories.flatMap(({ owner }) => (owner === null ? [] : [owner]));
  if (one !== undefined && two !== undefined && one.migration !== two.migration) {
    return unknown(
      `${one.side} belongs to migration "${one.migration}" and ${two.side} to "${two.migration}"`,
      'ask with the two databases of one migration; for a green that was away when its run was rolled back: docs/what-if.md, "the green of an earlier run comes back"',
    );
  }
  return undefined;
}

/** As the green of a migration that has ended is the blue of the next plan, whose run has claimed nothing yet. */
function notBegun({ blue, green }: Found): Extract<Verdict, { kind: 'unknown' }> | undefined {
  if (!blue.reached || !green.reached || green.inventory.owner !== null) return undefined;
  const { owner, route, ...flag } = blue.inventory;
  if (owner?.side !== 'green' || owner.outcome === null || route?.writesOn !== 'green') return undefined;
  // One that was closed since, or a green that is kept closed, has another cause.
  if (isClosed(flag) || isClosed(green.inventory)) return undefined;
  return calm(
    `the connection given as blue has been the green of migration "${owner.migration}", which has ended (${owner.outcome}) with the writes there, and no run has begun with it as blue`,
    `nothing; what "${owner.migration}" has left behind: ask with its plan`,
  );
}

function judgeBoth(blue: Inventory, green: Inventory): Verdict {
  if (blue.route === null || green.route === null) return judgeOneRow(blue, green);
  const truth = newest(blue.route, green.route);
  if (truth === undefined) {
    return unknown(
      `the two route rows have the same epoch ${blue.route.epoch} and name different sides`,
      'one of the databases has been restored or changed by hand: find out which; nothing can be decided from them',
    );
  }
  const named = truth.writesOn === 'blue' ? blue : green;
  const other = truth.writesOn === 'blue' ? green : blue;
  if (named.route?.epoch === truth.epoch && named.route.writesOn === named.side) return judgeNamed(named, other, truth);
  // Decided by the other side, and the row of the one that was given the writes is behind.
  if (named.route !== null && named.route.epoch < truth.epoch - 1) {
    return unknown(
      `${other.side} has given the writes to ${named.side} at epoch ${truth.epoch}, but ${named.side} is at epoch ${named.route.epoch}: more than one move is missing there`,
      `${named.side} has been restored from an older state: compare the rows of both before anybody writes`,
    );
  }
  if (!isClosed(other)) {
    return unknown(
      `${other.side} has given the writes to ${named.side} at epoch ${truth.epoch}, but applications can still write on ${other.side}: ${whyOpen(other)}`,
      `somebody has changed the fence of ${other.side}: stop what writes there and arm its tables again, then ask again`,
    );
  }
  return notOpenYet(named, truth.epoch);
}

/** The side's own row, the newest one, gives it the writes. */
function judgeNamed(named: Inventory, other: Inventory, truth: Route): Verdict {
  if (!named.settled) return underWay(named);
  if (isClosed(named)) return closedWithoutDecision(named.side, truth.epoch);
  if (isClosed(other)) return certain(named.side, truth.epoch, `${other.side} is closed`);
  if (!hasBeenPrimary(other, truth.epoch)) {
    return certain(named.side, truth.epoch, `${other.side} has no fence yet, but nobody has been told to write there`);
  }
  return bothOpen(named.side, other, truth.epoch);
}

/** One side knows a route, or none does. */
function judgeOneRow(blue: Inventory, green: Inventory): Verdict {
  const knows = blue.route !== null ? blue : green;
  const other = knows === blue ? green : blue;
  const { route } = knows;
  if (route === null) {
    return noRunKnown(blue, green);
  }
  if (route.writesOn === knows.side) {
    if (!knows.settled) return underWay(knows);
    if (isClosed(knows)) return closedWithoutDecision(knows.side, route.epoch);
    // Green has the writes from blue, so blue had a fence: it was restored, or released by name.
    if (knows.side === 'green' && !isClosed(other)) return bothOpen('green', other, route.epoch);
    return certain(knows.side, route.epoch, `its own route row says so, and ${other.side} knows no run`);
  }
  if (knows.side === 'green') {
    return certain('blue', route.epoch, 'green says so, and blue has no fence: a run was rolled back or cleaned up');
  }
  return unknown(
    `blue has given the writes to green at epoch ${route.epoch} and is closed, but green knows no run`,
    'somebody has removed schema verdigris there, or this is another database: nothing is opened by guess',
  );
}

/** Neither side has had a run, or both have nothing of it left but how it ended. */
function noRunKnown(blue: Inventory, green: Inventory): Verdict {
  const ended = blue.owner ?? green.owner;
  const isOver =
    ended === null
      ? ''
      : ` that is under way; that of "${ended.migration}" has ended (${ended.outcome ?? 'unknown how'})`;
  const verdict = unknown(
    `neither side knows a run of Verdigris${isOver}`,
    'nothing of Verdigris keeps anybody from writing on either side: ask those who run the application',
  );
  // A side that is closed without a word of any run is nothing to be calm about.
  const isCalm = ![blue, green].some((one) => isClosed(one) || (one.owner !== null && one.owner.outcome === null));
  return isCalm ? { ...verdict, noRun: true, isCalm: true } : verdict;
}

/** Green is a physical standby of blue: nobody writes there. */
function judgeBesideStandby(onBlue: Inventory): Verdict {
  const { route, settled, ...blue } = onBlue;
  if (route === null) {
    return calm(
      'green is a physical standby of blue, and blue knows no run of Verdigris',
      'nothing of Verdigris keeps anybody from writing on blue: ask those who run the application',
    );
  }
  if (route.writesOn !== 'blue') {
    return unknown(
      `blue has given the writes to green at epoch ${route.epoch}, but the connection given as green leads to a physical standby of blue`,
      'mend that connection: it has to lead to the green that was given the writes',
    );
  }
  if (!settled) return underWay(onBlue);
  if (isClosed(blue)) return closedWithoutDecision('blue', route.epoch);
  return certain('blue', route.epoch, 'green is a physical standby of it, which takes no writes');
}

/** The other side is away: only a side that still has the writes by its own row is certain. */
function judgeOne(here: Inventory, away: SideFound): Verdict {
  const absent = otherSide(here.side);
  const why = away.reached ? '' : ` (${away.why})`;
  const { route } = here;
  if (route === null) {
    return unknown(
      `${absent} can't be reached${why}, and ${here.side} knows no run`,
      `bring ${absent} back and ask again`,
    );
  }
  if (route.writesOn === here.side) {
    if (!here.settled) return underWay(here);
    if (isClosed(here)) return closedWithoutDecision(here.side, route.epoch);
    return certain(
      here.side,
      route.epoch,
      `it has never given its writes of this epoch away, so ${absent}, which can't be reached${why}, can't have them; not so if ${here.side} was restored from a backup or failed over to a replica that was behind`,
    );
  }
  if (!hasBeenPrimary(here, route.epoch)) return judgeNeverPrimary(here.side, absent, why);
  const isShut = isClosed(here) ? 'is closed' : `is not closed: ${whyOpen(here)}`;
  return unknown(
    `${here.side} has given the writes to ${absent} at epoch ${route.epoch} and ${isShut}; ${absent} can't be reached${why}, so it can't be said whether it is open, or has given them back since`,
    `bring ${absent} back and ask again; do not open ${here.side}: writes that ${absent} took would be lost${
      absent === 'green'
        ? `. Where green is lost for good, and only then: verdigris doctor --open --green-is-gone ${route.migration}`
        : ''
    }`,
  );
}

/** Only the other side's row would say that this one has been given the writes. */
function judgeNeverPrimary(here: Side, absent: Side, why: string): Verdict {
  return unknown(
    `${here} has never had the writes, as far as it knows; ${absent}, which has them or has given them to ${here} since, can't be reached${why}`,
    `bring ${absent} back and ask again; do not open ${here}: writes that ${absent} took would be lost`,
  );
}

/** The row with the higher epoch; undefined when two rows of one epoch contradict each other. */
function newest(blue: Route, green: Route): Route | undefined {
  if (blue.epoch !== green.epoch) return blue.epoch > green.epoch ? blue : green;
  return blue.writesOn === green.writesOn ? blue : undefined;
}

/** Whether the fence keeps applications out: the flag is closed and every trigger that is there is in force. */
export function isClosed({ fenceOpen, fence }: Pick<Inventory, 'fenceOpen' | 'fence'>): boolean {
  const armed = fence.filter(({ state }) => state !== 'absent');
  return fenceOpen === false && armed.length > 0 && armed.every(({ state }) => state === 'armed');
}

function whyOpen(inventory: Inventory): string {
  if (inventory.fenceOpen !== false) return 'its flag is open';
  const broken = inventory.fence.filter(({ state }) => state !== 'armed' && state !== 'absent');
  if (broken.length === 0) return 'no table has a fence';
  return `the fence is not in force on ${broken
    .slice(0, 5)
    .map(({ table }) => table)
    .join(', ')}`;
}

/** Whether a person has released this side by name, so that its fence goes, or has gone. */
export function isReleased({ owner }: Pick<Inventory, 'owner'>): boolean {
  return owner?.outcome === RELEASED;
}

/** What finishes a release by name that was broken off. */
export function finishRelease({ side, owner }: Inventory): string {
  return `verdigris doctor --clean --yes --release-${side} ${owner?.migration ?? 'NAME'}`;
}

/** Whether applications may ever have been sent to this side: blue always, green once the epoch has moved. */
export function hasBeenPrimary({ side, owner }: Inventory, epoch: number): boolean {
  if (side === 'blue' || owner === null || owner.claimedEpoch === null) return true;
  return epoch > owner.claimedEpoch;
}

function certain(primary: Side, epoch: number, why: string): Verdict {
  return { kind: 'certain', primary, epoch, why };
}

function unknown(why: string, next: string): Extract<Verdict, { kind: 'unknown' }> {
  return { kind: 'unknown', why, next };
}

function calm(why: string, next: string): Extract<Verdict, { kind: 'unknown' }> {
  return { ...unknown(why, next), isCalm: true };
}

function bothOpen(truth: Side, other: Inventory, epoch: number): Extract<Verdict, { kind: 'both' }> {
  const { side } = other;
  const why = `writes belong to ${truth} since epoch ${epoch}, and nothing keeps applications from writing on ${side}: ${whyOpen(other)}`;
  if (other.route === null) {
    return {
      ...{ kind: 'both', truth, epoch, why: `${why}, and it knows no run` },
      next: `nothing if ${side} was released by name (--release-${side}) and is a database of its own now; else it was restored, or its schema verdigris dropped: stop what writes there, and compare the rows of both`,
    };
  }
  if (isReleased(other)) {
    return {
      ...{ kind: 'both', truth, epoch, why: `${why}; it was released by name, and that was not finished` },
      next: `finish it: ${finishRelease(other)}. Where ${side} is to take no writes after all: stop what writes there; verdigris doctor --close --yes`,
    };
  }
  return {
    ...{ kind: 'both', truth, epoch, why },
    next: `close ${side} at once (stop what writes there; verdigris doctor --close --yes), then compare the rows of both`,
  };
}

/** A hold ends by itself within minutes at the most. */
const HELD_FOR_LONG_S = 600;

function underWay({ side, settling }: Pick<Inventory, 'side' | 'settling'>): Verdict {
  const lastStep = `${side} is in the last step of a promotion`;
  if (settling?.awaitsStandby === true) {
    return unknown(
      `${lastStep}, whose COMMIT (pid ${settling.pid}) waits for a synchronous standby: no write goes on until that answers`,
      `bring that standby back, or on ${side}: ${WITHOUT_STANDBY}; then ask again`,
    );
  }
  if (settling !== undefined && settling.seconds > HELD_FOR_LONG_S) {
    const minutes = Math.round(settling.seconds / 60);
    return unknown(
      `${lastStep}, whose lock pid ${settling.pid} has had for ${minutes} minutes: no write goes on meanwhile`,
      `see on ${side} what it waits for (pg_stat_activity); end it there, SELECT pg_terminate_backend(${settling.pid}), and ask again`,
    );
  }
  return calm(`${lastStep}, whose lock could not be had`, 'ask again in a few seconds');
}

function notOpenYet({ side, fenceOpen }: Inventory, epoch: number): Unopened {
  return {
    kind: 'nobody',
    side,
    epoch,
    decidedElsewhere: true,
    why:
      fenceOpen === true
        ? `decided for ${side} at epoch ${epoch}; its flag is open, but its route row does not say so yet`
        : `decided for ${side} at epoch ${epoch}, not open yet: nobody takes writes`,
    next: `a worker that runs opens it within seconds, unless it is another server than before the decision (the run's status says so): compare its rows first, where that can be waited for; where none does: verdigris doctor --open --yes`,
  };
}

function closedWithoutDecision(side: Side, epoch: number): Unopened {
  return {
    kind: 'nobody',
    side,
    epoch,
    decidedElsewhere: false,
    why: `writes belong to ${side} at epoch ${epoch}, and its fence is closed without a decision: nobody takes writes there`,
    next: `a worker that runs opens it again; where none does: verdigris doctor --open --yes`,
  };
}
