import { afterAll, beforeAll, expect, it } from 'vitest';
import { retireUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled } from '../support/scripted-run.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

it('a green that says nothing to the look before the way back has nobody asked for a loss', async () => {
  let asked = 0;
  const run = await runs.begin({
    maybeEmptied: () => untilCancelled(),
    writesOfGreen: () => (asked++ === 0 ? untilCancelled() : 'has them'),
  });
  await run.saw('+watchStandby');
  await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
  const status = await until(
    run.handle,
    'blocked',
    (s) => /partitions were emptied|timeout/i.test(s.waiting?.why ?? ''),
    120_000,
  );
  expect(status.waiting?.answer).toContain('--name retire');
  expect(status.waiting?.answer).not.toContain('acceptLoss');
  await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
  await run.handle.result().catch(() => undefined);
  expect(run.writesOn).toBe('green');
  await replayed(run);
});
