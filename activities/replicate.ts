import { setTimeout as sleep } from 'node:timers/promises';
import { Context } from '@temporalio/activity';
import { VerdigrisError } from '../src/errors.js';
import { parseDuration } from '../src/plan/duration.js';
import { copyAnew } from '../src/postgres/bootstrap/copy-anew.js';
import { tablesync } from '../src/postgres/bootstrap/tablesync.js';
import { describePhysicalSlot, readAbandonedSlot } from '../src/postgres/bootstrap/standby/physical-slot.js';
import { feedName } from '../src/postgres/feed.js';
import { parseSize, refuseLostSlots, waitUntilCaughtUp } from '../src/postgres/lag.js';
import { refuseMistakes } from '../src/postgres/migrate/plan-trial.js';
import { planWork } from '../src/postgres/migrate/plan-work.js';
import { claimBlue, claimDatabases } from '../src/postgres/ownership.js';
import { ensureSlot } from '../src/postgres/replication-slot.js';
import {
  describeHeldTransactions,
  gigabytes,
  judgeRetainedWal,
  lacksSlots,
  readRetainedWal,
  retainedWalExceeded,
  type RetainedWal as HeldBack,
} from '../src/postgres/retained-wal.js';
import { closeSession, RefusedLogin, type Session } from '../src/postgres/session.js';
import { isAway } from '../src/postgres/standby.js';
import { recordEvent } from '../src/postgres/state.js';
import { FeedErrors } from '../src/postgres/stuck-feed.js';
import { streamNames } from '../src/postgres/streams.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import {
  perform,
  performWhileBlueServes,
  sessionsOnBoth,
  watching,
  type ActivityDependencies,
  type Work,
} from './context.js';
import { FeedWatch, type FeedNews, type FeedState } from './feed-watch.js';
import { movedTables, publishForward } from './run-tables.js';

const DIRECTION = 'to_green';

/** How full the plan's limit is: half makes a warning, and close to it the heavy steps give way. */
export type WalLevel = 'fine' | 'warn' | 'hold';

export interface RetainedWal {
  readonly level: WalLevel;
  /** One line for people. */
  readonly why: string;
}

/** How long a new level must last before it is told, ms: one that goes to and fro would fill the history. */
const LEVEL_SETTLED_MS = 5_000;
/** The same for one that is better than what people were told. */
const RELIEF_SETTLED_MS = 60_000;
/** Between two looks at blue. */
const LOOK_EVERY_MS = 1_000;
/** The same while blue is away. */
const ASK_AGAIN_MS = 5_000;
const SEVERITY: Readonly<Record<WalLevel | 'unwatched', number>> = { unwatched: 0, fine: 0, warn: 1, hold: 2 };

/** Activities of phase 2 that fill green; the schema is copied by activities/copy-schema.ts. */
export function replicateActivities(dependencies: ActivityDependencies) {
  return {
    /** Makes this run the owner of both databases; a standby gets that from blue, as it gets everything. */
    claimDatabases: (ref: RunRef): Promise<{ epoch: number }> =>
      perform(dependencies, ref, async ({ databases, run }) => {
        const claim = ref.plan.bootstrap.method === 'standby' ? claimBlue : claimDatabases;
        const { traffic, replicate, promote } = ref.plan;
        const { streams } = replicate;
        return { epoch: await claim(databases, run, traffic.flag, { streams, refuseWith: promote.refuseWith }) };
      }),

    /** The plan is tried on green's empty tables; then publications, then slots, then rows. In this order: a slot that is older than its publication fails on PG 15. */
    copyRows: (ref: RunRef): Promise<{ tables: number }> =>
      performWhileBlueServes(dependencies, ref, async ({ databases, run, session, signal, report }) => {
        const blue = await session('blue', 'replicate');
        await refuseMistakes({
          session: await session('green', 'try the plan'),
          blue,
          moved: await movedTables(blue, ref.plan),
          work: await planWork(ref.plan),
        });
        await publishForward(blue, run, ref.plan);
        for (const slot of streamNames(run.migration, DIRECTION, ref.plan.replicate.streams)) {
          await ensureSlot(blue, slot, { signal, onWait: (waitingFor) => report({ slot, waitingFor }) });
        }
        const result = await tablesync.run({
          databases,
          migration: run.migration,
          direction: DIRECTION,
          streams: ref.plan.replicate.streams,
          maxRetainedWal: parseSize(ref.plan.replicate.maxRetainedWal),
          signal,
          report,
        });
        await recordEvent(blue, run.runId, 'rows copied', result);
        return result;
      }),

    /**
     * Watches the WAL that blue keeps for green, and whether green follows; returns when the level is no longer `known` (of an
     * unwatched one at once), or the feed not as `known` any more: one of the two. Fails at the limit, or when a slot is gone;
     * also when blue refuses the login for minutes. Green or blue being away for a while is an answer.
     *
     * @param feed what people know of the feed. Default: that it is well, as in a run of an earlier version
     */
    watchRetainedWal: (
      ref: RunRef,
      known: WalLevel | 'unwatched',
      feed: FeedState = 'follows',
    ): Promise<RetainedWal | FeedNews> =>
      perform(dependencies, ref, (work) => watchWal(work, ref, known, feed), toldWhenRefused),

    /** Returns when green has been close behind blue for long enough. */
    awaitLag: (ref: RunRef): Promise<{ lagSeconds: number }> =>
      performWhileBlueServes(dependencies, ref, async ({ databases, run, session, signal, report }) => {
        const feed = { databases, run, plan: ref.plan, signal };
        const { blue: source, green: target } = await sessionsOnBoth({ session }, 'lag', watching(signal));
        await copyAnew({ ...feed, report }, target);
        const errors = new FeedErrors(feed, source, target);
        const lag = await waitUntilCaughtUp({
          source,
          target,
          whileLate: () => errors.refuse(),
          direction: DIRECTION,
          feed: feedName(run.migration, DIRECTION),
          maxLagMs: parseDuration(ref.plan.replicate.maxLag),
          holdForMs: parseDuration(ref.plan.replicate.holdFor),
          maxRetainedWal: parseSize(ref.plan.replicate.maxRetainedWal),
          signal,
          report,
        });
        return { lagSeconds: lag / 1_000 };
      }),
  };
}

async function watchWal(
  work: Work,
  ref: RunRef,
  known: WalLevel | 'unwatched',
  knownFeed: FeedState,
): Promise<RetainedWal | FeedNews> {
  const { run, session, signal } = work;
  const names = streamNames(run.migration, DIRECTION, ref.plan.replicate.streams);
  const look = looksAtWal(work, ref, names, known);
  const feed = new FeedWatch(work, names, knownFeed);
  let blue: Session | undefined;
  try {
    for (;;) {
      signal.throwIfAborted();
      let news: RetainedWal | FeedNews | undefined;
      try {
        blue ??= await session('blue', 'retained WAL', watching(signal));
        news = (await look(blue)) ?? (await feed.look(blue));
      } catch (error) {
        if (signal.aborted || !comesBack(error)) throw error;
        if (blue !== undefined) await closeSession(blue);
        blue = undefined;
        work.report({ away: 'blue' });
        news = feed.blueIsAway(error);
      }
      if (news !== undefined) return news;
      await sleep(blue === undefined ? ASK_AGAIN_MS : LOOK_EVERY_MS, undefined, { signal });
    }
  } finally {
    await feed.close();
  }
}

/** A login that is refused needs a person, and is told of otherwise. */
function comesBack(error: unknown): boolean {
  if (error instanceof RefusedLogin || !isAway(error)) return false;
  return !(error instanceof VerdigrisError) || error.retryable;
}

/** Looks at what blue keeps, once each time: undefined while people know its level, or a new one has not lasted. */
function looksAtWal(
  { run, session, signal, report }: Work,
  ref: RunRef,
  names: readonly string[],
  known: WalLevel | 'unwatched',
): (blue: Session) => Promise<RetainedWal | undefined> {
  const limit = parseSize(ref.plan.replicate.maxRetainedWal);
  const feed = feedName(run.migration, DIRECTION);
  const noneMissing = refusesLostSlots(() => session('green', 'retained WAL', watching(signal)), feed, names);
  let since = performance.now();
  let last: typeof known = known;
  return async (blue) => {
    const wal = await readRetainedWal(blue, names);
    // A slot that is gone holds nothing back, which is no good news before green has been asked whether one is missing.
    const unknown = lacksSlots(wal, names) && !(await noneMissing(blue));
    // The slot that a promoted standby used is not ours to drop, and giving the run up would not free it: people are told.
    const abandoned = await readAbandonedSlot(blue, run);
    const ofFeed = unknown ? known : judgeRetainedWal(wal, limit);
    const ofAnother = { bytes: abandoned?.retainedBytes ?? 0, transactions: 0 };
    const told = ofFeed === 'fine' && judgeRetainedWal(ofAnother, limit) !== 'fine';
    const level = told ? 'warn' : ofFeed;
    report({ retainedBytes: wal.bytes, limit, level });
    if (level === 'abort') throw retainedWalExceeded(feed, wal, limit);
    if (level !== last) since = performance.now();
    last = level;
    const settledMs = SEVERITY[level] < SEVERITY[known] ? RELIEF_SETTLED_MS : LEVEL_SETTLED_MS;
    if (level === 'unwatched' || level === known || performance.now() - since < settledMs) return undefined;
    const isOfAnother = told && abandoned !== undefined;
    return { level, why: isOfAnother ? describePhysicalSlot(abandoned) : describeRetainedWal(wal, limit) };
  };
}

/** Tries after which a watch that is refused is for the run to tell: some five minutes. */
const REFUSED_TRIES = 20;

/** Unlike a blue that is away, one that lets others in goes on writing WAL. */
function toldWhenRefused(error: VerdigrisError): VerdigrisError {
  const isLong = error instanceof RefusedLogin && Context.current().info.attempt >= REFUSED_TRIES;
  return isLong ? error.asLastWord() : error.tryingAgain();
}

function describeRetainedWal(wal: HeldBack, limit: number): string {
  const held = describeHeldTransactions('blue', wal, limit, 'the run is given up');
  if (held !== undefined) return `the feed to green ${held}`;
  return `blue holds back ${gigabytes(wal.bytes)} of WAL for green; at ${gigabytes(limit)} (replicate.maxRetainedWal) the run is given up`;
}

/**
 * Asks green whether slots that are not there are missing: while nobody subscribes to them they are not made yet, or were
 * dropped by a promotion.
 *
 * @returns false when green is away, so that nobody knows.
 */
function refusesLostSlots(
  openGreen: () => Promise<Session>,
  feed: string,
  names: readonly string[],
): (blue: Session) => Promise<boolean> {
  let green: Session | undefined;
  return async (blue) => {
    try {
      green ??= await openGreen();
      await refuseLostSlots(blue, green, feed, names);
      return true;
    } catch (error) {
      if (!isAway(error)) throw error;
      green = undefined;
      return false;
    }
  };
}
