import { setTimeout as sleep } from 'node:timers/promises';
import { closesBlue, doctorCall } from '../src/doctor-call.js';
import { VerdigrisError } from '../src/errors.js';
import { reasonOf } from '../src/failure-text.js';
import { dropDdlTriggers } from '../src/postgres/ddl/event-trigger.js';
import { whyBlueIsOpen } from '../src/postgres/blue-is-open.js';
import { dropFence } from '../src/postgres/fence.js';
import { dropPublications, dropSlots, dropSubscriptions } from '../src/postgres/feed-objects.js';
import { feedName } from '../src/postgres/feed.js';
import { RefusedLogin, SHORT_STATEMENTS, type Session } from '../src/postgres/session.js';
import { isAway } from '../src/postgres/standby.js';
import { hasState } from '../src/postgres/state.js';
import { writeProgress } from '../src/postgres/migrate/progress-row.js';
import { releaseDatabase } from '../src/postgres/ownership.js';
import { dropTriggers } from '../src/postgres/migrate/revert.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { performWhileGreenServes, watching, type ActivityDependencies, type Work } from './context.js';
import { begunKey, isOver, lookBefore, refuseIdleGreen, saidUntouched } from './retirement-looks.js';
import { stepContext } from './step-context.js';

/** Activities of phase 8. */
export function retireActivities(dependencies: ActivityDependencies) {
  return {
    /**
     * Looks whether a retirement may begin, and takes nothing down: whatever it fails by, the way back is as it was.
     *
     * @param epoch the one in which green has got the writes
     * @throws ApplicationFailure what `retire` throws at its first looks
     */
    mayRetire: (ref: RunRef, epoch: number): Promise<void> =>
      performWhileGreenServes(dependencies, ref, epoch, async (work) => {
        const serving = await work.session('green', 'may it be retired?', watching(work.signal));
        await lookBefore(work, serving, ref, dependencies.environment, epoch);
      }),

    /**
     * Removes replication and triggers. Blue is left as it is, with its fence closed: whoever still writes there is
     * told so. Schema verdigris stays on both sides: routers read from it where writes are.
     *
     * @param epoch the one in which green has got the writes. Default: not asked, as by an earlier version
     * @returns what is left on a blue that stays out of reach, or that it takes writes, for people; null when nothing is
     * @throws ApplicationFailure WritesOnBlue where they have been given back since: without its fence green would be open
     * beside blue; NotOpened where green has been replaced by one that lacks its opening
     */
    retire: (ref: RunRef, epoch = Infinity): Promise<string | null> =>
      performWhileGreenServes(dependencies, ref, epoch, async (work) => {
        const { run, session, asOwner, signal } = work;
        // Looked at before, while writes could still go back: a HAProxy may have been restarted since. Blue still answers rightly.
        const serving = await session('green', 'retire');
        try {
          await lookBefore(work, serving, ref, dependencies.environment, epoch);
        } catch (error) {
          throw await saidUntouched(work, error);
        }
        const back = feedName(run.migration, 'to_blue');
        const there = feedName(run.migration, 'to_green');
        const begins = async (on: Session): Promise<void> => {
          // A restored blue may have no state to write it to.
          if (await hasState(on)) await writeProgress(on, begunKey(run), {}, false);
        };
        const retireGreen = (): Promise<unknown> =>
          asOwner('green', 'retire', async (green) => {
            if (await isOver(green)) return;
            await refuseIdleGreen(work, green, epoch);
            await begins(green);
            await dropDdlTriggers(green);
            // Only where the promotion was never finished.
            await dropSubscriptions(green, there);
            await dropSlots(green, back, 2_000);
            await dropPublications(green, back);
            await dropFence(green, signal);
            await dropTriggers(stepContext(work, green, 'green'));
            await releaseDatabase(green, run, 'completed');
          });
        const retireBlue = (): Promise<unknown> =>
          asOwner(
            'blue',
            'retire',
            async (blue) => {
              if (await isOver(blue)) return;
              await begins(blue);
              await dropDdlTriggers(blue);
              await dropSubscriptions(blue, back);
              await dropSlots(blue, there, 2_000);
              await dropPublications(blue, there);
              await releaseDatabase(blue, run, 'completed');
            },
            SHORT_STATEMENTS,
          );
        // Blue's subscriber first, so that nothing holds green's slot; but a blue that is gone must not keep green,
        // which serves, from getting rid of a slot that fills its disk.
        const first = await failureOf(retireBlue);
        await retireGreen();
        const away = await untilBlueAnswers(first, retireBlue, {
          withinMs: BLUE_ANSWERS_WITHIN_MS,
          signal,
          onAway: (why) => work.report(waitsForBlue(why)),
        });
        const names = { blue: ref.plan.blue.connection, green: ref.plan.green.connection };
        const cleaning = doctorCall(names, '--clean');
        if (away !== null) return leftOnBlue(away, back, there, cleaning);
        const open = await whyOpen(work, epoch);
        return open === undefined ? null : `${open}. Next step: ${closesBlue(doctorCall(names, '--close --yes'))}`;
      }),
  };
}

/** All is done by then: a blue that can't be asked is no reason to do it again. */
async function whyOpen({ session, run }: Work, epoch: number): Promise<string | undefined> {
  try {
    return await whyBlueIsOpen(await session('blue', 'is it closed?', SHORT_STATEMENTS), run, epoch);
  } catch {
    return undefined;
  }
}

/**
 * A restart of its server, a failover, or the way of a changed password takes less. A blue that is gone for good must not keep
 * the run for ever.
 */
const BLUE_ANSWERS_WITHIN_MS = 600_000;

/** Time between two tries, ms. */
const AGAIN_MS = 5_000;

interface Patience {
  readonly withinMs: number;
  readonly againMs?: number;
  readonly signal: AbortSignal;
  readonly onAway: (why: string) => void;
}

/**
 * Has blue's part done again while blue is out of reach. What somebody must mend is thrown, as ever; a login that blue
 * refuses, when the time is over. Timed by the process: a worker that takes over has the whole time.
 *
 * @param first what the first try has failed by; null when it has not
 * @returns why blue is out of reach when the time is over; null when its part is done
 */
export async function untilBlueAnswers(
  first: unknown,
  retireBlue: () => Promise<unknown>,
  { withinMs, againMs = AGAIN_MS, signal, onAway }: Patience,
): Promise<string | null> {
  const until = performance.now() + withinMs;
  for (let error = first; error !== null; error = await failureOf(retireBlue)) {
    signal.throwIfAborted();
    if (!isAway(error) || (error instanceof VerdigrisError && !error.retryable)) throw error;
    const why = reasonOf(error);
    if (performance.now() > until && error instanceof RefusedLogin) throw error.asLastWord();
    if (performance.now() > until) return why;
    onAway(why);
    await sleep(againMs, undefined, { signal });
  }
  return null;
}

async function failureOf(work: () => Promise<unknown>): Promise<unknown> {
  try {
    await work();
    return null;
  } catch (error) {
    return error ?? new Error('it failed');
  }
}

function waitsForBlue(why: string): object {
  const note = `${why}; green's part is done, and after 10 minutes the run ends without blue's`;
  return { step: 'waits', object: 'for blue', done: 0, total: 0, rowsPerSecond: 0, etaSeconds: null, note };
}

function leftOnBlue(why: string, back: string, there: string, cleaning: string): string {
  return `blue is out of reach (${why}), so what the run has there is left: subscription ${back} (its further streams, too), what there is of publication and slot ${there}, the event triggers of schema verdigris, and the run's claim. Blue stays fenced. When it is back: ${cleaning}`;
}
