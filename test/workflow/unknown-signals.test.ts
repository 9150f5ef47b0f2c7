import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns, type ScriptedRun } from '../support/scripted-run.js';
import { rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(async () => {
  await runs.stop();
});

const WHO = { by: 'ada', reason: 'it is on fire' };

/** A signal as any client may send it, whatever its SDK. */
async function signalRaw(run: ScriptedRun, signalName: string, encoding: string): Promise<void> {
  await runs.client.workflowService.signalWorkflowExecution({
    namespace: 'default',
    workflowExecution: { workflowId: run.handle.workflowId },
    signalName,
    input: { payloads: [{ metadata: { encoding: Buffer.from(encoding) }, data: Buffer.from('{') }] },
  });
}

describe.concurrent('a signal of a name that no message has', () => {
  it('is in the decisions as ignored, and nothing else comes of it', async () => {
    const run = await runs.begin();
    await run.saw('+watchStandby');
    await run.handle.signal('rolback', WHO);
    await run.handle.signal('Approve');
    const status = await until(run.handle, 'told', (s) => s.decisions.length === 2);
    expect(status.decisions).toMatchObject([
      { message: 'rolback', ...WHO, ignored: expect.stringMatching(/no message .*rollback/) as string },
      { message: 'Approve', by: 'unknown', reason: '', ignored: expect.stringMatching(/no message/) as string },
    ]);
    // Updates and queries of such a name are refused by the SDK.
    await expect(run.handle.executeUpdate('rolback', { args: [WHO] })).rejects.toThrow();
    await expect(run.handle.query('statu')).rejects.toThrow(/statu/);
    expect(status).toMatchObject({ outcome: 'running', phase: 'standby', rollingBack: null });
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await run.handle.result();
    await replayed(run);
  });

  it('or that the SDK keeps for itself, or of contents that nobody can read, does not stop the run', async () => {
    const run = await runs.begin();
    await run.saw('+watchStandby');
    for (const name of ['__temporal_x', '__stack_trace', '__temporal_workflow_stream_publish']) {
      await run.handle.signal(name, WHO);
    }
    for (const name of ['rolback', 'rollback', 'progress']) await signalRaw(run, name, 'binary/encrypted');
    await signalRaw(run, 'pause', 'json/plain');
    await until(run.handle, 'all heard', (s) => s.decisions.length === 4);
    expect((await statusOf(run.handle)).decisions).toMatchObject([
      { message: '__stack_trace', by: 'ada', ignored: expect.stringMatching(/no message/) as string },
      { message: 'rolback', by: 'unknown', ignored: expect.stringMatching(/no message/) as string },
      { message: 'rollback', by: 'unknown', ignored: expect.stringMatching(/send an object/) as string },
      { message: 'pause', by: 'unknown', ignored: expect.stringMatching(/send an object/) as string },
    ]);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await run.handle.result();
    await replayed(run);
  });
});
