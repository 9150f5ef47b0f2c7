import { formatDuration } from '../plan/duration.js';
import { LIVE_SECONDS, type RouterSnapshot, type RouterSnapshots } from './router-snapshot.js';
import { count, listed, percent } from './share.js';
import { greenByInstance, type GateWindow } from './window.js';

/*
 * Whether what is known of green is known of now. A stage counts from its opening: ten thousand good reads stay good
 * when the applications have lost green since, or when nobody looks at it any more. So a gate passes only while green
 * goes on answering, and while those who asked it go on reporting. Fails nothing.
 */

/** What the last moments of a stage were like. Plain data: fit for storage. */
export interface Lately {
  /** Since green has answered a read for sure: how long, and the reads of both sides. */
  readonly unanswered: { readonly seconds: number; readonly reads: number };
  /** How long nobody has read anything for sure. */
  readonly idleSeconds: number;
  /** The newest slices, oldest first: reads on green, and reads of its users that blue had without green being asked. */
  readonly slices: readonly { readonly green: number; readonly lost: number }[];
  /** Instances that had such reads since green last answered them one: how many, and when last. */
  readonly lost: Readonly<Record<string, { readonly reads: number; readonly at: string }>>;
  /** Instances that began to report in the stage, lately, and when. */
  readonly appeared: Readonly<Record<string, string>>;
}

export const NOTHING_YET: Lately = {
  ...{ unanswered: { seconds: 0, reads: 0 }, idleSeconds: 0, slices: [] },
  ...{ lost: {}, appeared: {} },
};

/** In a longer slice nobody looked, for a while: its reads may all be of its beginning. */
const LOOKED_AT_SECONDS = 10;
/** So many slices are "the last moments": half a minute. */
const SLICES_KEPT = 6;
/** Of so many reads green should have had several: without a single one they have not come to it. */
const READS_EXPECTED = 10;
/** The same where nobody reads at all: traffic comes and goes. */
const SILENCE = { seconds: 120, readsExpected: 30 } as const;
/** Reads that missed green: fewer are an accident, and so is a smaller share. */
const LOST = { reads: 3, share: 0.05 } as const;
/** An instance that has lost green, or has gone silent, holds a stage for so long at most: it may have ended well. */
const HOLDS_SECONDS = 600;
/** Whoever began to report within so long stands in for one that has gone silent: as in a deployment. */
const REPLACES_SECONDS = 900;

/** What was known, and what a slice of the stage adds to it. */
export function latelyAfter(
  before: Lately,
  from: RouterSnapshots,
  to: RouterSnapshots,
  { seconds, green, blue, fallbacks }: GateWindow,
): Lately {
  const reads = green.requests + blue.requests;
  const isGap = seconds > LOOKED_AT_SECONDS;
  const longer = { seconds: before.unanswered.seconds + seconds, reads: before.unanswered.reads + reads };
  const since = isGap ? { seconds, reads } : NOTHING_YET.unanswered;
  return {
    unanswered: green.requests > green.errors ? since : longer,
    idleSeconds: reads > 0 ? since.seconds : before.idleSeconds + seconds,
    // A read that failed on green is among its errors and among the fallbacks.
    slices: [...before.slices, { green: green.requests, lost: fallbacks.error - green.errors }].slice(-SLICES_KEPT),
    lost: lostAfter(before.lost, from, to),
    appeared: appearedAfter(before.appeared, from, to),
  };
}

function lostAfter(before: Lately['lost'], from: RouterSnapshots, to: RouterSnapshots): Lately['lost'] {
  const instances = greenByInstance(from, to).flatMap(({ instance, answered, lost }) => {
    const known = before[instance];
    const reads = answered > 0 ? 0 : (known?.reads ?? 0) + lost;
    if (reads === 0) return [];
    return [[instance, { reads, at: lost > 0 || known === undefined ? to.at : known.at }] as const];
  });
  return Object.fromEntries(instances);
}

function appearedAfter(before: Lately['appeared'], from: RouterSnapshots, to: RouterSnapshots): Lately['appeared'] {
  const known = new Set([...from.live, ...from.stale].map(({ instance }) => instance));
  const isRecent = ([, at]: readonly [string, string]): boolean => secondsBetween(at, to.at) <= REPLACES_SECONDS;
  const added = to.live
    .filter(({ instance }) => !known.has(instance))
    // By its report: so it is never later than what it is last heard of.
    .map(({ instance, ageSeconds }) => [instance, secondsBefore(to.at, ageSeconds)] as const);
  return Object.fromEntries([...Object.entries(before).filter(isRecent), ...added]);
}

/** What a stage is asked about. */
export interface Presence {
  readonly lately: Lately;
  /** Since the stage opened. */
  readonly window: GateWindow;
  readonly opened: RouterSnapshots;
  readonly now: RouterSnapshots;
  /** How many instances the plan asks for; those of one name count as one. */
  readonly atLeast?: number | undefined;
}

/** Why what the routers have counted is not enough to pass by, though it may be good; undefined when nothing speaks against it. */
export function holdOf(presence: Presence): string | undefined {
  return withoutGreen(presence) ?? withoutRouters(presence) ?? withoutReads(presence);
}

/** Applications that have lost green. */
function withoutGreen({ lately, now }: Presence): string | undefined {
  const live = new Set(now.live.map(({ instance }) => instance));
  const cut = Object.entries(lately.lost).filter(
    ([instance, { reads, at }]) =>
      live.has(instance) && reads >= LOST.reads && secondsBetween(at, now.at) <= HOLDS_SECONDS,
  );
  if (cut.length > 0) {
    return `these instances of the application do not reach green, and blue answers in its place: ${listed(cut.map(([name]) => name))}`;
  }
  const green = total(lately.slices.map((slice) => slice.green));
  const lost = total(lately.slices.map((slice) => slice.lost));
  if (lost < LOST.reads || lost <= LOST.share * (green + lost)) return undefined;
  return `blue has just answered ${count(lost)} of ${count(green + lost)} reads of green's users (${percent(lost / (green + lost))}), since the application did not reach green, or had no connection to it free`;
}

/** Routers of the stage that no longer report, and have no successors: they may read on, unseen. */
function withoutRouters({ lately, opened, now, atLeast = 0 }: Presence): string | undefined {
  const reporting = new Set(now.live.map(({ instance, metrics }) => metrics.name ?? instance)).size;
  if (reporting < atLeast) return `${reporting} of at least ${atLeast} instances of the application report`;
  const silent = silentSince(opened, now).filter(({ ageSeconds }) => ageSeconds <= HOLDS_SECONDS);
  const last = withoutSuccessor(silent, lately.appeared, now.at);
  const newcomers = now.live.filter(({ instance }) => lately.appeared[instance] !== undefined);
  if (last.length <= newcomers.length) return undefined;
  return `these instances of the application have gone silent within the last ${formatDuration(HOLDS_SECONDS * 1_000)}, ended or cut off, and no others have come: ${listed(last.map(({ instance }) => instance))}`;
}

/**
 * Those for whom nobody came who has gone silent by now, too: a process that is killed again and again has another name
 * each time, and only its last life is missing. Such a successor came later than the one before was last heard of: one that
 * came earlier may have been any other's.
 */
function withoutSuccessor(
  silent: readonly RouterSnapshot[],
  appeared: Lately['appeared'],
  at: string,
): RouterSnapshot[] {
  const successors = silent
    .flatMap(({ instance }) => appeared[instance] ?? [])
    .map((since) => secondsBetween(since, at))
    .sort((a, b) => a - b);
  // The youngest first: a successor of it is one of all that are older, too.
  return [...silent]
    .sort((a, b) => a.ageSeconds - b.ageSeconds)
    .filter(({ ageSeconds }) => {
      if ((successors[0] ?? Infinity) >= ageSeconds) return true;
      successors.shift();
      return false;
    });
}

function silentSince(opened: RouterSnapshots, { at, stale }: RouterSnapshots): RouterSnapshot[] {
  const stageSeconds = secondsBetween(opened.at, at);
  // One that is only just silent is a metrics page: these are told as unreachable.
  return stale.filter(
    ({ ageSeconds, metrics }) =>
      metrics.ended !== true && ageSeconds > LIVE_SECONDS && ageSeconds <= stageSeconds + LIVE_SECONDS,
  );
}

/** Traffic that no longer comes to green. Where it is small everywhere, it is waited for as before. */
function withoutReads({ lately, window: { seconds, green, blue } }: Presence): string | undefined {
  const { unanswered, idleSeconds } = lately;
  const expected = (unanswered.reads * green.requests) / Math.max(1, green.requests + blue.requests);
  if (expected >= READS_EXPECTED) {
    return `green is not known to have answered one of the last ${count(unanswered.reads)} reads, within ${formatDuration(unanswered.seconds * 1_000)}: what is known of it is old`;
  }
  const missed = (idleSeconds * green.requests) / Math.max(1, seconds);
  if (idleSeconds < SILENCE.seconds || missed < SILENCE.readsExpected) return undefined;
  return `nobody has read anything for ${formatDuration(idleSeconds * 1_000)}: what is known of green is old`;
}

function secondsBetween(from: string, to: string): number {
  return (Date.parse(to) - Date.parse(from)) / 1_000;
}

function secondsBefore(at: string, seconds: number): string {
  return new Date(Date.parse(at) - seconds * 1_000).toISOString();
}

function total(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}
