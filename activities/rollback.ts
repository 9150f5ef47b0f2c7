import { dropPublications, dropSlots, dropSubscriptions, findSubscriptions } from '../src/postgres/feed-objects.js';
import { isInRecovery } from '../src/postgres/in-recovery.js';
import { dropDdlTriggers } from '../src/postgres/ddl/event-trigger.js';
import { feedName } from '../src/postgres/feed.js';
import { takeStepOver } from '../src/postgres/migrate/step-lock.js';
import { dropState, releaseDatabase } from '../src/postgres/ownership.js';
import { dropCopiedSchema } from '../src/postgres/schema-copy/drop-copied-schema.js';
import { dropSlot } from '../src/postgres/replication-slot.js';
import { readRunTraces, type RunTraces } from '../src/postgres/run-traces.js';
import { SHORT_STATEMENTS, takesNoWrites, type Session } from '../src/postgres/session.js';
import { hasState } from '../src/postgres/state.js';
import { findSyncSlots, noteSubscribers } from '../src/postgres/sync-slots.js';
import { readStateObjects } from '../src/postgres/doctor/read-state.js';
import type { Direction, Side } from '../src/side.js';
import { together } from '../src/timing.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { readsAreBack } from './reads-to-blue.js';
import { stepContext } from './step-context.js';
import { refuseReadsOnGreenOf } from './haproxy.js';
import { perform, performWhileBlueServes, sessionsOnBoth, type ActivityDependencies, type Work } from './context.js';

export interface Keep {
  /** Green's tables stay, fenced: it has been primary, and may hold values that blue can't. */
  readonly keepGreen: boolean;
}

const DIRECTIONS: readonly Direction[] = ['to_green', 'to_blue'];

/**
 * The compensations that no other file has: each looks before it acts, leaves a side alone that is another run's by then, and
 * each side is cleaned even if the other is away.
 */
export function rollbackActivities(dependencies: ActivityDependencies) {
  return {
    /** What the databases know of a run whose workflow was reset, which remembers less than it has done. */
    tracesOfRun: (ref: RunRef): Promise<RunTraces> =>
      perform(dependencies, ref, async (work) => {
        const sides = await sessionsOnBoth(work, 'traces of the run', SHORT_STATEMENTS);
        const [blue, green] = await together(readRunTraces(sides.blue, work.run), readRunTraces(sides.green, work.run));
        // What was on green goes with its schema verdigris, or stays with it.
        return { isOwner: blue.isOwner || green.isOwner, isBack: green.isBack };
      }),

    /** Drops subscriptions, slots and publications on both sides, and on green what the copy made. */
    undoReplication: (ref: RunRef, { keepGreen }: Keep): Promise<void> =>
      performWhileBlueServes(dependencies, ref, async (work) => {
        const { asOwner, run } = work;
        await readsAreBack(work, ref, dependencies.environment, { onlyIfAnswered: true });
        // What DROP SUBSCRIPTION may leave on blue can't be told from others' any more when the subscriptions are gone.
        const noted = await failureOf(noteFollowers(work, ref));
        // Subscribers first: a slot that is in use can't be dropped. But blue's slot goes even if green is away: it would
        // hold back WAL until the disk is full, with nobody left to watch it.
        const undo = (act: (session: Session) => Promise<void>): Promise<unknown> =>
          failureOf(
            onBothSides((side) =>
              asOwner(
                side,
                'undo replication',
                async (session) => {
                  if (!(await followsBlue(session, side, ref))) await act(session);
                },
                SHORT_STATEMENTS,
              ),
            ),
          );
        const feeds = DIRECTIONS.map((direction) => feedName(ref.plan.name, direction));
        const subscriptions = await undo(async (session) => {
          for (const feed of feeds) await dropSubscriptions(session, feed);
        });
        const slots = await undo(async (session) => {
          for (const feed of feeds) {
            await dropSlots(session, feed);
            await dropPublications(session, feed);
          }
          // Without the slots of the feed no worker of it begins another one.
          for (const slot of await findSyncSlots(session, run.runId)) await dropSlot(session, slot);
        });
        const failed = subscriptions ?? slots ?? noted;
        if (failed !== undefined) throw failed;
        await refuseReadsOnGreenOf(ref, dependencies.environment, await work.session('blue', 'undo replication'));
        // Green's tables are its own where it was a physical standby: no copy made them.
        if (keepGreen || ref.plan.bootstrap.method === 'standby') return;
        await asOwner('green', 'undo replication', async (green) => {
          if (!(await hasState(green))) return;
          await takeStepOver(green, work.signal, 'ended');
          await dropCopiedSchema(stepContext(work, green, 'green'));
        });
      }),

    /**
     * Gives both databases back; what is left of Verdigris goes, but on a green that is kept. Where green has had the writes
     * and is dropped, blue keeps the route: a router that was away for all of the rollback believes in green until it hears
     * of this epoch.
     */
    releaseDatabases: (ref: RunRef, { keepGreen }: Keep): Promise<void> =>
      performWhileBlueServes(dependencies, ref, (work) =>
        onBothSides((side) =>
          // A run whose claim was refused has nothing here: what is here is the owner's.
          work.asOwner(side, 'release', async (session) => {
            // It gets it from blue.
            if (await followsBlue(session, side, ref)) return;
            await dropDdlTriggers(session);
            await releaseDatabase(session, work.run, 'rolledBack');
            if (side === 'green' && keepGreen) return;
            await dropState(session, work.run, {
              keepRoute: side === 'blue' && !keepGreen && (await hasMoved(session)),
            });
          }),
        ),
      ),
  };
}

/** Green's subscriptions, as far as it answers; blue knows of those that were made since it is told of them. */
async function noteFollowers(work: Work, ref: RunRef): Promise<void> {
  const green = await work.session('green', 'undo replication', SHORT_STATEMENTS);
  if (await followsBlue(green, 'green', ref)) return;
  const names = await findSubscriptions(green, feedName(ref.plan.name, 'to_green'));
  if (names.length > 0) await noteSubscribers(await work.session('blue', 'undo replication'), green, names);
}

/**
 * Whether a side is a green of the bootstrap `standby` that was never promoted: nothing is its own. Any other standby was a
 * primary a moment ago, or will be one: nothing can be undone there now.
 *
 * @throws VerdigrisError ConnectionFailed (retryable)
 */
async function followsBlue(session: Session, side: Side, { plan }: RunRef): Promise<boolean> {
  if (!(await isInRecovery(session))) return false;
  if (side === 'green' && plan.bootstrap.method === 'standby') return true;
  throw takesNoWrites(session);
}

/** Whether the run that owns this database has moved the writes, and back again: each move has raised the epoch. */
async function hasMoved(session: Session): Promise<boolean> {
  const { owner, route } = await readStateObjects(session);
  return owner !== null && route !== null && route.epoch > (owner.claimedEpoch ?? 0);
}

/** Does it on green and on blue; fails with the first error after both have been tried. */
async function onBothSides(undo: (side: Side) => Promise<unknown>): Promise<void> {
  const results = await Promise.allSettled([undo('green'), undo('blue')]);
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

async function failureOf(undoing: Promise<void>): Promise<unknown> {
  return undoing.then(
    () => undefined,
    (error: unknown) => error ?? new Error('unknown'),
  );
}
