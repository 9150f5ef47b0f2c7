import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { MockActivityEnvironment } from '@temporalio/testing';
import { expect, it } from 'vitest';
import { alive } from '../../activities/context.js';

const STEP = { step: 'copy', object: 'public.t', done: 1, total: 2, rowsPerSecond: 1, etaSeconds: 1 };

/** How often an activity of two seconds tells its progress to a workflow with a history of so many events. */
async function toldTo(historyLength: number): Promise<number> {
  let told = 0;
  const handle = {
    describe: () => Promise.resolve({ historyLength }),
    signal: () => Promise.resolve(void (told += 1)),
  };
  const client = {
    workflow: { getHandle: () => handle },
    withAbortSignal: (_: AbortSignal, work: () => unknown): unknown => work(),
  } as unknown as Client;
  const dependencies = { environment: {}, redact: (text: string) => text };
  await new MockActivityEnvironment({}, { client }).run(() =>
    alive(dependencies, async (_, report) => {
      report(STEP);
      await sleep(2_000);
    }),
  );
  return told;
}

it('progress is told to a workflow only while its history has room for it', async () => {
  expect(await Promise.all([toldTo(400), toldTo(12_000)])).toEqual([1, 0]);
});
