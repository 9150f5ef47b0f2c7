import { tableFilter } from '../src/postgres/catalog-pattern.js';
import { firstPartitions, maybeEmptied, rememberFiles } from '../src/postgres/partition-files.js';
import { SHORT_STATEMENTS } from '../src/postgres/session.js';
import { whereWritesAre, type WritesAt } from '../src/postgres/where-writes-are.js';
import { writesOfGreen, type WritesOfGreen } from '../src/postgres/writes-of-green.js';
import type { Side } from '../src/side.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { perform, type ActivityDependencies } from './context.js';
import type { FlagsOwed } from './flags.js';
import { attemptPromotion, type PromotionResult } from './promotion-attempt.js';
import { finish } from './promotion-finish.js';
import { contentsOfGreenAlone } from './promotion-loss.js';
import { withClientsTold, withPools } from './promotion-poolers.js';
import { awaited, waitsUntil } from './promotion-waits.js';
import { withdraw } from './promotion-withdraw.js';
import { STAGE_PATIENCE } from './stage-opening.js';
import { requestOfActivity } from './temporal-clock.js';

/*
 * Activities of phase 6 and of the way back. Why no write is lost is told in src/postgres/promote.ts, which has the tries;
 * around them:
 *
 *   promote             promotion-attempt.ts    what an earlier attempt has decided is gone on with, else:
 *     prepare           promotion-prepare.ts    who is in the way, the way back is proven, the fence is armed
 *     tries             src/postgres/promote.ts
 *     record            promotion-finish.ts     what has been decided is written down on both sides
 *     or give up        promotion-withdraw.ts   nothing has happened: clients of poolers go on
 *   finishPromotion     promotion-finish.ts     the old feed ends, the one back begins
 *   withdrawPromotion   promotion-withdraw.ts   the tries end, for a rollback or until somebody approves anew
 *
 *   promotion-poolers.ts has the poolers of an activity, promotion-waits.ts how long what is missing is waited for,
 *   promotion-loss.ts what a way back leaves behind.
 */

export function promoteActivities(dependencies: ActivityDependencies) {
  const patience = { ...STAGE_PATIENCE, ...dependencies.patience };
  return {
    /**
     * Moves writes from `from` to the other side. Begun again after a crash, it first asks what has been decided.
     *
     * @param epoch the one in which it is asked for
     * @param acceptLoss only from green, and only when a person has said so: what blue does not have stays behind
     * @param accepted how much of it was accepted, in the words of src/postgres/standby-loss.ts: where it would be clearly more,
     * nothing is moved. Default: any, as by an earlier version, and where it could not be counted
     * @param notAfter ISO 8601: what has not been decided is not begun later than that. Default: no limit
     * @throws ApplicationFailure ConnectionFailed, PromotionBlocked (both retryable) while a pooler is away, or in another
     * promotion, and `notAfter` has not come; PromotionBlocked when `attempts` tries did not go through, or it is too late;
     * RollbackUnsafe when a way back would lose more than was accepted; GateFailed when a gate of the last stage has
     * failed meanwhile. Nothing has happened then. NotOpened (retryable) when it has been decided: nobody takes writes
     * until the new side is open. PoolNotReleased, for good only when it is too late: clients of a pooler may wait
     * (withdrawPromotion). PartitionEmptied and ServerReplaced when rows are to be compared again first.
     */
    promote: (
      ref: RunRef,
      from: Side,
      epoch: number,
      acceptLoss = false,
      notAfter?: string,
      accepted?: string,
    ): Promise<PromotionResult> =>
      perform(
        dependencies,
        ref,
        (work) =>
          withClientsTold(work, from, (heard) =>
            withPools(
              dependencies,
              ref,
              work,
              (pools) =>
                attemptPromotion({
                  ...{ work, ref, pools, from, epoch, acceptLoss, accepted, notAfter, patience },
                  environment: dependencies.environment,
                  redact: dependencies.redact,
                }).catch(async (error: unknown) => {
                  throw await awaited(error, work.signal, dependencies.redact, notAfter);
                }),
              heard,
            ),
          ),
        (error) => waitsUntil(error, notAfter),
      ),

    /**
     * Ends the feed to the side that takes writes now and begins the one back. A fence that can't be switched off there, since
     * somebody locks a table, is left to `switchFenceOff`, or to `removeFence` on the way back.
     *
     * @param goesBack writes are about to leave that side again: its fence is kept. Default: false
     * @returns what flagd's file does not say yet; null when nothing is missing
     */
    finishPromotion: (ref: RunRef, from: Side, goesBack = false): Promise<FlagsOwed | null> =>
      perform(dependencies, ref, (work) => finish(dependencies, work, ref, from, goesBack)),

    /**
     * Where writes are, by the databases alone.
     *
     * @param known the epoch that the run has seen: a blue that knows less has been restored. Default: 0
     * @throws ApplicationFailure WritesUncertain when the two sides, or the run, contradict each other
     */
    whereWritesAre: (ref: RunRef, known = 0): Promise<WritesAt> =>
      perform(dependencies, ref, ({ databases, run }) => whereWritesAre(databases, run, known)),

    /**
     * Looks, before writes go back, for partitions of green that may have been emptied since rows were compared: TRUNCATE of
     * one is not replicated. What comes later stops the move of the writes.
     *
     * @returns the first of them
     */
    maybeEmptied: (ref: RunRef): Promise<readonly string[]> =>
      perform(dependencies, ref, async ({ session, run }) => {
        const green = await session('green', 'emptied partitions', SHORT_STATEMENTS);
        const { partitions, files } = await maybeEmptied(green, run.runId, tableFilter(ref.plan.tables));
        await rememberFiles(green, run.runId, 'looked at', files);
        return firstPartitions(partitions);
      }),

    /** What green holds that is not replicated to blue, asked before writes go back, in words; empty when it is nothing. */
    unmovedOnGreen: (ref: RunRef): Promise<readonly string[]> =>
      perform(dependencies, ref, async ({ session }) =>
        contentsOfGreenAlone(await session('green', 'unmoved contents', SHORT_STATEMENTS), ref),
      ),

    /**
     * Whether green still has the writes that it has got in this epoch: asked before a way back is given up. Where it has, no try
     * that the run has asked for before moves them any more.
     */
    writesOfGreen: (ref: RunRef, epoch: number): Promise<WritesOfGreen> =>
      perform(dependencies, ref, ({ databases, run: { runId, migration } }) =>
        writesOfGreen(databases, migration, epoch, { runId, asked: requestOfActivity() }),
      ),

    /**
     * Ends the tries of a promotion that has not been decided.
     *
     * @param goesOn the run does, and is to promote later: what a try has left on green keeps no WAL until then. Default:
     * false, as in a rollback, which removes it with everything else
     * @param tellsDecision also where the run goes on it is told what has been decided. Default: false, as to runs of an earlier
     * version, whose next promotion finishes that
     * @returns which poolers could not be released for a minute, and why; null when all are
     * @throws ApplicationFailure WritesOnGreen where a try of a worker that Temporal has not heard of has decided meanwhile
     */
    withdrawPromotion: (ref: RunRef, goesOn = false, tellsDecision = false): Promise<string | null> =>
      perform(dependencies, ref, (work) => withdraw(dependencies, work, ref, goesOn, tellsDecision)),
  };
}
