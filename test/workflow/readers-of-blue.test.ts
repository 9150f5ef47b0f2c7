import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { approveUpdate, retireUpdate } from '../../workflows/messages.js';
import { asks, beginAsking, yes } from '../support/asked-approvals.js';
import { statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns } from '../support/scripted-run.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
const READERS = ['the slot "cdc" (pgoutput, connected)', 'the physical slot "reports" (not connected)'];

describe.concurrent('who else reads blue by replication', () => {
  it('is named by the question before the retirement', async () => {
    const run = await beginAsking(runs, { before: ['retire'] }, { otherReaders: () => READERS.slice(0, 1) });
    const evidence = async (): Promise<string> => (await statusOf(run.handle)).waiting?.evidence?.join('\n') ?? '';
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await asks(run, 'retire');
    expect(await evidence()).toMatch(/readers of blue: the slot "cdc" \(pgoutput, connected\); they get nothing more/);
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'retire')] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    expect((await statusOf(run.handle)).warnings.join()).not.toContain('readers of blue');
    await replayed(run);
  });

  it('is a warning where nobody is asked', async () => {
    const run = await runs.begin({ otherReaders: () => READERS }, { standby: { for: '1s' } });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    expect((await statusOf(run.handle)).warnings.join()).toContain(`readers of blue: ${READERS.join(', ')}; they`);
    expect(run.at('+otherReaders')).toBeLessThan(run.at('+retire'));
    await replayed(run);
  });

  it('does not keep the retirement of a blue that is gone', async () => {
    const otherReaders = (): never => {
      throw ApplicationFailure.retryable("blue can't be reached\nNext step: bring it back", 'ConnectionFailed');
    };
    const run = await runs.begin({ otherReaders }, { standby: { for: '1s' } });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    expect((await statusOf(run.handle)).warnings.join()).toContain("is not known (blue can't be reached)");
    await replayed(run);
  });
});

describe.concurrent('columns that nothing but code fills from the retirement on', () => {
  const label = { table: 'notes', column: 'label', type: 'text', up: "'note'", notNull: true };
  const migrations = [{ addColumn: label }];

  it('are a warning of the standby window where nobody is asked before it', async () => {
    const run = await runs.begin({}, { migrations });
    const status = await until(run.handle, 'in the standby window', (s) => s.waiting?.for === 'standby');
    expect(status.warnings.join()).toMatch(
      /leaves out .*notes\.label \(NOT NULL\).*nobody is asked before that.*at \S+Z/,
    );
    // Webhooks are told what is waited for, and no warnings.
    expect(status.waiting?.why).toMatch(/lasts until .*; .*notes\.label \(NOT NULL\)/);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    await replayed(run);
  });

  it('are named by the question, and no warning, where somebody is', async () => {
    const traffic = { stages: [{ percent: 1, for: '0s' }], approval: { before: ['retire' as const] } };
    const run = await runs.begin({}, { migrations, traffic });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await asks(run, 'retire');
    const { waiting, warnings } = await statusOf(run.handle);
    expect(waiting?.evidence?.join('\n')).toMatch(/notes\.label \(NOT NULL\)/);
    expect(warnings.join()).not.toContain('notes.label');
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'retire')] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
  });
});
