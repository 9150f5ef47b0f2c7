import { setTimeout as sleep } from 'node:timers/promises';
import type { WorkflowHandle } from '@temporalio/client';
import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { promotionBlocked } from '../../src/postgres/hold.js';
import {
  approveSignal,
  approveUpdate,
  pauseUpdate,
  resumeUpdate,
  retireUpdate,
  rollbackUpdate,
} from '../../workflows/messages.js';
import { until } from '../support/migration.js';
import { recordHistory } from '../support/record-history.js';
import { resetBefore } from '../support/reset.js';
import { failureOf, resultOf } from '../support/run-end.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';

/*
 * A run of each shape, whose history is kept (`npm run record-histories`): together they come by most of what patched() of the
 * workflow has changed. What is right of each is tested elsewhere; here it is only that the run ends as meant.
 */

const WHO = { by: 'ada', reason: 'the test says so' };

const IN_STAGE: PlanInput['traffic'] = { stages: [{ percent: 50, for: '1h' }], approval: { before: [] } };
const EQUAL = {
  ...{ scope: 'all', tables: 1, rowsVerified: 5, differingRows: 0, examples: [] },
  at: '2026-11-30T00:00:00.000Z',
};
const GATE = {
  ...{ metric: 'errorRate', where: 'stage 50 %', because: 'the test says so', onFail: 'rollback' },
  at: '2026-11-30T00:00:00.000Z',
};

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
}, 300_000);
afterAll(() => runs.stop());

async function inStage({ handle }: ScriptedRun): Promise<void> {
  await until(handle, 'in the stage', (s) => s.greenReadPercent === 50 && s.waiting?.for === 'stage');
}

async function inStandby(run: ScriptedRun): Promise<void> {
  await run.saw('+watchStandby');
  await until(run.handle, 'in the standby window', (s) => s.waiting?.for === 'standby');
}

async function asksFor(gate: string, { handle }: ScriptedRun): Promise<void> {
  await until(handle, `asking for ${gate}`, (s) => s.waiting?.gate === gate);
}

const rollBack = (handle: WorkflowHandle, more: { acceptLoss?: true } = {}): Promise<unknown> =>
  handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, ...more }] });

/** A way back that does not go on. */
const wayBack = (fails: (acceptLoss: boolean) => Error | null): Overrides => ({
  promote: (run, _ref, from, _epoch, acceptLoss) => {
    const failure = from === 'blue' ? null : fails(acceptLoss === true);
    if (failure !== null) throw failure;
    return { ...run.move(from), lost: acceptLoss === true ? 'about 12 writes' : null };
  },
});

describe.concurrent('a run whose history is kept', { timeout: 600_000 }, () => {
  it('is completed: approved, paused, and with messages that it ignores', async () => {
    const before: ('traffic' | 'promote' | 'retire')[] = ['traffic', 'promote', 'retire'];
    const run = await runs.begin({}, { traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before } } });
    for (const gate of ['traffic', 'promote'] as const) {
      await asksFor(gate, run);
      await run.handle.executeUpdate(approveUpdate, { args: [{ gate, ...WHO }] });
    }
    await inStandby(run);
    await run.handle.signal('aprove', WHO);
    await run.handle.signal(approveSignal, { gate: 'retire', ...WHO, reason: 'x'.repeat(3_000) });
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await asksFor('retire', run);
    await run.handle.executeUpdate(approveUpdate, { args: [{ gate: 'retire', ...WHO }] });
    expect((await resultOf(run)).outcome).toBe('completed');
    await replayed(run, 'completed');
  });

  it('is paused while its standby window ends, then completed', async () => {
    let end = (): void => undefined;
    const ended = new Promise<void>((resolve) => (end = resolve)).then(() => {
      throw new CancelledFailure('cancelled');
    });
    let watches = 0;
    const run = await runs.begin({
      // There is time for a message while the first watch ends.
      watchStandby: () => (++watches > 1 ? untilCancelled() : Promise.race([untilCancelled(60_000), ended])),
    });
    await inStandby(run);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    end();
    await run.saw('+watchStandby', 2);
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('completed');
    await replayed(run, 'completed-after-pause');
  });

  it('is held by failures: orphans, gates that can not be looked at, a promotion that is blocked, emptied partitions', async () => {
    const asked: Record<string, number> = {};
    const first = (what: string): boolean => (asked[what] = (asked[what] ?? 0) + 1) === 1;
    const away = (): never => {
      throw ApplicationFailure.nonRetryable('blue: there is no such database (3D000)', 'ConnectionFailed');
    };
    const constraint = {
      ...{ table: 'items', name: 'items_parent' },
      foreignKey: { columns: ['parent'], references: { table: 'parents', columns: ['id'] } },
    };
    const run = await runs.begin(
      {
        verify: (_run, _ref, _source, scope) =>
          scope === 'changed' && first('rows') ? { ...EQUAL, differingRows: 1, emptied: ['public.items_1'] } : EQUAL,
        recheckForeignKeys: () => (first('keys') ? ['1 row of items has no parent'] : []),
        judgeStage: () => (first('gates') ? away() : { outcome: 'pass', evidence: [], lagSeconds: 0 }),
        promote: (own, _ref, from) => {
          if (first('blocked')) throw ApplicationFailure.nonRetryable('blue: pid 4711 writes', 'PromotionBlocked');
          if (first('emptied'))
            throw ApplicationFailure.nonRetryable('items_1 may have been emptied', 'PartitionEmptied');
          return own.move(from);
        },
      },
      {
        onFailure: 'hold',
        migrations: [{ addConstraint: constraint }],
        traffic: {
          stages: [{ percent: 1, for: '0s' }],
          gates: [{ metric: 'rowDifferences' }],
          approval: { before: [] },
        },
      },
    );
    const resumed = (async () => {
      while (!run.log.includes('+watchStandby')) {
        const { waiting } = await until(run.handle, 'waiting', () => true);
        const { gate, request } = waiting ?? {};
        if (waiting?.for === 'resume') await run.handle.executeUpdate(resumeUpdate, { args: [WHO] }).catch(() => null);
        if (gate !== undefined && request !== undefined)
          await run.handle.executeUpdate(approveUpdate, { args: [{ gate, request, ...WHO }] }).catch(() => null);
        await sleep(200);
      }
    })();
    await resumed;
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('completed');
    await replayed(run, 'completed-after-holds');
  });

  it('is rolled back in its traffic, by message', async () => {
    const run = await runs.begin({}, { traffic: IN_STAGE });
    await inStage(run);
    await rollBack(run.handle);
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run, 'rolled-back-in-traffic');
  });

  it('is rolled back since a gate fails', async () => {
    const failed = { outcome: 'fail', evidence: [{ ...GATE, outcome: 'fail' }], lagSeconds: 0 };
    const run = await runs.begin(
      { watchGates: () => failed.evidence, judgeStage: () => failed },
      { traffic: IN_STAGE },
    );
    expect((await failureOf(run)).cause?.message).toMatch(/^rolled back: /);
    await replayed(run, 'gate-failed');
  });

  it('is rolled back while blue can not take the reads back, which leaves what their readers need', async () => {
    const readsToBlue = (): never => {
      throw ApplicationFailure.nonRetryable('blue: there is no such database (3D000)', 'ConnectionFailed');
    };
    const run = await runs.begin({ readsToBlue }, { traffic: IN_STAGE });
    await inStage(run);
    await rollBack(run.handle);
    expect((await failureOf(run)).cause?.message).toMatch(/reads are not back/);
    await replayed(run, 'reads-not-back');
  });

  it('is cancelled in its traffic, while blue refuses the login of a watch', async () => {
    const watchRetainedWal = (): never => {
      throw ApplicationFailure.nonRetryable('blue: the password or the user is wrong (28P01)', 'ConnectionFailed');
    };
    const run = await runs.begin({ watchRetainedWal }, { traffic: IN_STAGE });
    await inStage(run);
    await run.handle.cancel();
    expect((await failureOf(run)).cause?.name).toBe('CancelledFailure');
    await replayed(run, 'cancelled-in-traffic');
  });

  it('is rolled back in its standby window, after DDL and an emptied partition', async () => {
    let told = 0;
    const watchSchema: Overrides['watchSchema'] = (_run, _ref, side) => {
      if (side === 'blue' || told++ > 0) return untilCancelled();
      return { what: 'green: items_1', emptied: { partitions: ['public.items_1'], mark: 'once' } };
    };
    let compared = 0;
    const verify: Overrides['verify'] = (_run, _ref, source) => {
      if (source === 'blue' || ++compared > 1) return EQUAL;
      throw ApplicationFailure.nonRetryable('green: there is no such function (42883)', 'SqlError');
    };
    const run = await runs.begin({ watchSchema, maybeEmptied: () => ['public.items_1'], verify });
    await inStandby(run);
    await until(run.handle, 'told that it was not compared', (s) => s.warnings.some((one) => one.includes('42883')));
    await rollBack(run.handle, { acceptLoss: true });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run, 'rolled-back-in-standby');
  });

  it('is rolled back with a loss that is accepted as it is named', async () => {
    let isDead = true;
    const run = await runs.begin({
      writesOfGreen: () => {
        throw ApplicationFailure.nonRetryable('green: a connection was lost', 'ConnectionFailed');
      },
      ...wayBack((acceptLoss) => {
        if (acceptLoss && !isDead) return null;
        if (acceptLoss) {
          isDead = false;
          return ApplicationFailure.nonRetryable('green: a connection was lost', 'ConnectionFailed');
        }
        return ApplicationFailure.nonRetryable(
          'its slot is gone; a rollback would lose about 12 writes',
          'RollbackUnsafe',
        );
      }),
    });
    await inStandby(run);
    await rollBack(run.handle);
    await until(run.handle, 'asking', (s) => s.waiting?.for === 'confirmation');
    await rollBack(run.handle, { acceptLoss: true });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run, 'rolled-back-with-a-loss');
  });

  it('is not rolled back after all: the way back is blocked, and given up', async () => {
    const blocked = promotionBlocked('green: pid 4711 writes').message;
    const run = await runs.begin(wayBack(() => ApplicationFailure.nonRetryable(blocked, 'PromotionBlocked')));
    await inStandby(run);
    await rollBack(run.handle);
    await until(run.handle, 'blocked', (s) => s.waiting?.for === 'retry' && s.waiting.answer !== undefined);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await failureOf(run)).cause?.message).toMatch(/writes stay on green/);
    await replayed(run, 'way-back-given-up');
  });

  it('is rolled back where blue is behind, with about what it lacks, after other failures', async () => {
    let tries = 0;
    const behind = 'blue is too far behind; a rollback would lose about 12 writes';
    const run = await runs.begin(
      wayBack((acceptLoss) => {
        if (acceptLoss) return null;
        const other = ++tries === 1;
        return ApplicationFailure.nonRetryable(
          other ? 'refused (42501)' : behind,
          other ? 'SqlError' : 'PromotionBlocked',
        );
      }),
    );
    await inStandby(run);
    await rollBack(run.handle);
    await until(run.handle, 'behind', (s) => /too far behind/.test(s.waiting?.why ?? ''));
    await rollBack(run.handle, { acceptLoss: true });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run, 'rolled-back-from-behind');
  });

  it('owes the end of both moves of the writes', async () => {
    let isBack = false;
    let last = 0;
    const finishPromotion: Overrides['finishPromotion'] = (_run, _ref, from) => {
      if (from === 'blue' ? isBack : ++last > 1) return null;
      throw ApplicationFailure.nonRetryable('the other side is lost', 'SqlError');
    };
    const run = await runs.begin({ finishPromotion });
    await inStandby(run);
    isBack = true;
    await rollBack(run.handle);
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run, 'owed');
  });

  it('is refused, since Temporal would end it', async () => {
    const run = await runs.begin({}, {}, { workflowExecutionTimeout: '1h' });
    await failureOf(run);
    await replayed(run, 'refused');
  });

  const webhooks = {
    plan: {
      traffic: {
        stages: [{ percent: 50, for: '1h' }],
        approval: { before: ['promote'] },
        webhooks: [{ connection: 'hook' }],
      },
    } satisfies Partial<PlanInput>,
    calls: { callWebhook: () => ({ outcome: 'done' }) } satisfies Overrides,
  };

  it('leads webhooks there and back', async () => {
    const traffic = { ...webhooks.plan.traffic, stages: [{ percent: 50, for: '0s' }], approval: { before: [] } };
    let tries = 0;
    const promote: Overrides['promote'] = (own, _ref, from) =>
      from === 'blue' && ++tries === 1 ? untilCancelled() : own.move(from);
    const run = await runs.begin({ ...webhooks.calls, promote }, { traffic });
    await run.saw('+promote');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await run.saw('-promote');
    await until(run.handle, 'paused', (s) => s.waiting?.for === 'resume');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await inStandby(run);
    await rollBack(run.handle);
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run, 'webhooks');
  });

  it('is reset to a point before its stages, behind webhooks, and rolled back', async () => {
    const run = await runs.begin(webhooks.calls, webhooks.plan);
    await inStage(run);
    await resetBefore(run.handle, 'verify');
    const again = runs.client.workflow.getHandle(run.handle.workflowId);
    await run.saw('+openStage', 2);
    await rollBack(again);
    expect(await again.result()).toMatchObject({ outcome: 'rolledBack' });
    await recordHistory(again, 'reset');
  });
});
