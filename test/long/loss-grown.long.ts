import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { until } from '../support/migration.js';
import { replayed, ScriptedRuns, type ScriptedRun } from '../support/scripted-run.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { rollbackUpdate, type Rollback } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
const WITH_LOSS: { args: [Rollback] } = { args: [{ ...WHO, acceptLoss: true }] };

async function asked(run: ScriptedRun, loss: RegExp): Promise<void> {
  await until(run.handle, `asked about ${loss.source}`, (s) => loss.test(s.waiting?.why ?? ''));
}

async function ends(run: ScriptedRun): Promise<void> {
  expect(((await run.handle.result()) as MigrationReport).outcome).toBe('rolledBack');
  expect(run.writesOn).toBe('blue');
  await replayed(run);
}

it('a loss that has grown since a try with it was cut off, and green did not say what came of it, is asked about again', async () => {
  let writes = 10;
  const forced: number[] = [];
  const run = await runs.begin({
    promote: (own, _ref, from, _epoch, acceptLoss) => {
      if (from === 'blue') return own.move(from);
      const loses = `about ${writes} writes`;
      if (acceptLoss !== true) {
        throw ApplicationFailure.nonRetryable(`its slot is gone; a rollback would lose ${loses}`, 'RollbackUnsafe');
      }
      forced.push(writes);
      if (writes > 10) return { ...own.move(from), lost: loses };
      writes = 500_000;
      throw ApplicationFailure.nonRetryable('a connection was lost', 'ConnectionFailed');
    },
    writesOfGreen: () => {
      throw ApplicationFailure.nonRetryable('a connection was lost', 'ConnectionFailed');
    },
  });
  await run.saw('+watchStandby');
  await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
  await asked(run, /about 10 writes/);
  await run.handle.executeUpdate(rollbackUpdate, WITH_LOSS);
  await asked(run, /about 500000 writes/);
  expect(forced).toEqual([10]);
  expect(run.writesOn).toBe('green');
  await run.handle.executeUpdate(rollbackUpdate, WITH_LOSS);
  await ends(run);
  expect(forced).toEqual([10, 500_000]);
});

it('so is one that blue is only late for: it is named, and what was accepted of it does not count for ever', async () => {
  let writes = 10;
  const forced: number[] = [];
  const run = await runs.begin({
    promote: (own, _ref, from, _epoch, acceptLoss) => {
      if (from === 'blue') return own.move(from);
      const loses = `about ${writes} writes`;
      if (acceptLoss !== true) {
        const why = `blue is too far behind; forced now, a rollback would lose ${loses}`;
        throw ApplicationFailure.nonRetryable(why, 'PromotionBlocked');
      }
      forced.push(writes);
      if (writes > 10) return { ...own.move(from), lost: loses };
      writes = 90_000;
      throw ApplicationFailure.nonRetryable('writers did not end', 'PromotionBlocked');
    },
  });
  await run.saw('+watchStandby');
  await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
  await asked(run, /too far behind.*about 10 writes/);
  expect(await run.handle.executeUpdate(rollbackUpdate, WITH_LOSS)).toMatch(/with the loss of about 10 writes/);
  await asked(run, /too far behind.*about 90000 writes/);
  expect(forced).toEqual([10]);
  expect(run.writesOn).toBe('green');
  expect(await run.handle.executeUpdate(rollbackUpdate, WITH_LOSS)).toMatch(/with the loss of about 90000 writes/);
  await ends(run);
  expect(forced).toEqual([10, 90_000]);
});

it('a try with the loss is told how much of it was accepted, and what it refuses is asked about again', async () => {
  let writes = 10;
  const told: unknown[] = [];
  const run = await runs.begin({
    promote: (own, _ref, from, _epoch, acceptLoss, _notAfter, accepted) => {
      if (from === 'blue') return own.move(from);
      if (acceptLoss === true) told.push(accepted);
      if (acceptLoss === true && accepted === `about ${writes} writes`) return own.move(from);
      if (acceptLoss === true) writes = 90_000;
      const loses = `a rollback would lose about ${writes} writes`;
      throw ApplicationFailure.nonRetryable(`its slot is gone; ${loses}`, 'RollbackUnsafe');
    },
  });
  await run.saw('+watchStandby');
  await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
  await asked(run, /about 10 writes/);
  writes = 11;
  await run.handle.executeUpdate(rollbackUpdate, WITH_LOSS);
  await asked(run, /about 90000 writes/);
  expect(run.writesOn).toBe('green');
  await run.handle.executeUpdate(rollbackUpdate, WITH_LOSS);
  await ends(run);
  expect(told).toEqual(['about 10 writes', 'about 90000 writes']);
});
