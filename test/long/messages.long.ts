import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterEach, describe, expect, it } from 'vitest';
import { LEDGER_MIGRATIONS, LEDGER_SCHEMA } from '../support/ledger-application.js';
import { inPhase, Migration, statusOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import { recordHistory } from '../support/record-history.js';
import { testTemporal } from '../support/temporal.js';
import { approveSignal, approveUpdate, pauseUpdate, resumeUpdate, retireUpdate } from '../../workflows/messages.js';
import type { MigrationReport } from '../../workflows/lib/report.js';

const open: Migration[] = [];
const run = promisify(execFile);

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

const WHO = { by: 'ada', reason: 'it is fine' };

/** No application: one stage that sends nobody to green, so that nothing but messages is waited for. */
const NO_TRAFFIC = { stages: [{ percent: 0, for: '0s' }], gates: [{ metric: 'lag' as const, max: '2s' }] };

/** The temporal CLI, as an approver uses it. */
async function temporal(...words: string[]): Promise<{ stdout: string; code: number }> {
  const { cliPath, address } = testTemporal();
  try {
    const { stdout } = await run(cliPath, [...words, '--address', address]);
    return { stdout, code: 0 };
  } catch (error) {
    const { stdout, stderr, code } = error as { stdout: string; stderr: string; code: number };
    return { stdout: stdout + stderr, code };
  }
}

describe('messages to a live run', () => {
  it('are answered by the CLI: queries, updates that are refused or followed, signals, metadata; a worker is replaced', async () => {
    const migration = await Migration.create({
      blue: 'pg15',
      green: 'pg18',
      purpose: 'messages',
      schema: LEDGER_SCHEMA,
      plan: {
        migrations: LEDGER_MIGRATIONS,
        traffic: { ...NO_TRAFFIC, approval: { before: ['traffic', 'promote', 'retire'] } },
        standby: { for: '10m' },
        promote: { attempts: 2 },
      },
    });
    open.push(migration);
    const handle = await migration.start();
    const id = ['--workflow-id', handle.workflowId];

    // Paused in mid-run: the work stops, and goes on with another worker.
    await until(handle, 'replicating', inPhase('replicate'));
    await handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await until(handle, 'paused', (s) => s.paused && s.waiting?.for === 'resume');
    await migration.replaceWorker();
    expect((await statusOf(handle)).phase).toBe('replicate');
    await handle.executeUpdate(resumeUpdate, { args: [WHO] });

    // A signal that comes too early is kept as ignored; the update of the same meaning is refused with the reason.
    await until(handle, 'waiting for the approval of traffic', (s) => s.waiting?.gate === 'traffic');
    await handle.signal(approveSignal, { gate: 'promote', ...WHO });
    await until(handle, 'told', (s) => s.decisions.some((d) => d.ignored !== undefined));
    const refused = await temporal(
      'workflow',
      'update',
      'execute',
      ...id,
      '--name',
      'approve',
      '--input',
      JSON.stringify({ gate: 'promote', ...WHO }),
    );
    expect(refused.code).not.toBe(0);
    expect(refused.stdout).toMatch(/waits for the approval "traffic", not "promote"/);
    const approved = await temporal(
      'workflow',
      'signal',
      ...id,
      '--name',
      'approve',
      '--input',
      JSON.stringify({ gate: 'traffic', ...WHO }),
    );
    expect(approved.code).toBe(0);

    // The promotion meets a transaction that has written and does not end: back to the approval, which says so.
    await until(handle, 'waiting for the approval of the promotion', (s) => s.waiting?.gate === 'promote');
    const again = await withClient(migration.blue.config, async (client) => {
      await client.query(
        "SET application_name = 'night job'; BEGIN; UPDATE accounts SET balance = balance WHERE id = 1",
      );

      await handle.executeUpdate(approveUpdate, { args: [{ gate: 'promote', ...WHO }] });
      const asked = await until(handle, 'asked again', (s) => s.waiting?.gate === 'promote' && s.warnings.length > 0);
      expect(asked.waiting?.why).toMatch(/night job/);
      expect(asked.writesOn).toBe('blue');
      await client.query('ROLLBACK');
      return asked;
    });
    const query = await temporal('workflow', 'query', ...id, '--type', 'status', '-o', 'json');
    expect(query.stdout).toContain('"promote"');
    const metadata = await temporal('workflow', 'metadata', ...id);
    expect(metadata.stdout).toMatch(/approve before|approval/);
    await handle.executeUpdate(approveUpdate, {
      args: [{ gate: 'promote', request: again.waiting?.request ?? '', ...WHO }],
    });

    await until(handle, 'in the standby window', (s) => s.phase === 'standby' && s.waiting?.for === 'standby');
    await handle.executeUpdate(retireUpdate, { args: [WHO] });
    await until(handle, 'waiting for the approval of the retirement', (s) => s.waiting?.gate === 'retire');
    await handle.executeUpdate(approveUpdate, { args: [{ gate: 'retire', ...WHO }] });
    const report = (await handle.result()) as MigrationReport;
    await recordHistory(handle, 'messages');

    expect(report.outcome).toBe('completed');
    expect(report.decisions.map((d) => [d.message, d.gate, d.ignored === undefined])).toEqual([
      ['pause', undefined, true],
      ['resume', undefined, true],
      ['approve', 'promote', false],
      ['approve', 'traffic', true],
      ['approve', 'promote', true],
      ['approve', 'promote', true],
      ['retire', undefined, true],
      ['approve', 'retire', true],
    ]);
    const description = await handle.describe();
    expect(description.searchAttributes).toMatchObject({ VerdigrisPhase: ['completed'], VerdigrisTraffic: [100] });
    expect(description.historyLength).toBeLessThan(500);
  });
});
