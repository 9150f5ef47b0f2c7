import type { Context } from '@temporalio/activity';
import type { ActivityExecuteInput } from '@temporalio/worker';
import { NativeConnection } from '@temporalio/worker';
import { describe, expect, it } from 'vitest';
import { activitySlots, ActivitySlots } from '../../src/worker/activity-slots.js';
import { createWorker } from '../../src/worker/create-worker.js';
import { testBundle } from '../support/bundle.js';
import { testTemporal, uniqueTaskQueue } from '../support/temporal.js';

/** Activities that run until they are told to end. */
class Running {
  readonly warnings: string[] = [];
  readonly #ends: (() => void)[] = [];

  constructor(private readonly slots: ActivitySlots) {}

  begin(activityType: string): Promise<unknown> {
    const context = { info: { activityType }, log: { warn: (text: string) => this.warnings.push(text) } };
    const { inbound } = this.slots.interceptor(context as unknown as Context);
    const input = { args: [], headers: {} } as ActivityExecuteInput;
    const next = (): Promise<unknown> => new Promise<unknown>((resolve) => this.#ends.push(() => resolve('copied')));
    return inbound?.execute?.(input, next as never) ?? Promise.reject(new Error('nothing counts'));
  }

  endOne(): void {
    this.#ends.shift()?.();
  }
}

describe('the activities of a worker', () => {
  it('are many by default, and as many as the environment says', async () => {
    expect(activitySlots({})).toBe(1_000);
    const { address, namespace } = testTemporal();
    const connection = await NativeConnection.connect({ address });
    try {
      const worker = await createWorker({
        ...{ connection, namespace, taskQueue: uniqueTaskQueue('slots'), redact: (text) => text },
        ...{ environment: { VERDIGRIS_ACTIVITIES: '40' }, workflowBundle: await testBundle() },
      });
      expect(worker.options).toMatchObject({ tuner: { activityTaskSlotSupplier: { numSlots: 40 } } });
      await worker.runUntil(Promise.resolve());
    } finally {
      await connection.close();
    }
  });

  it.each(['0', '19', 'many', '1e9', '50.5'])('are not "%s"', (text) => {
    expect(() => activitySlots({ VERDIGRIS_ACTIVITIES: text })).toThrow(/20 to 100000/);
  });

  it('are never all copies: one beyond half of them is tried again soon, and everything else goes on', async () => {
    const running = new Running(new ActivitySlots(20));
    const copies = Array.from({ length: 10 }, () => running.begin('copyParcel'));
    await expect(running.begin('copyParcel')).rejects.toMatchObject({
      ...{ type: 'WorkerBusy', nonRetryable: false, nextRetryDelay: '2s' },
    });
    const guard = running.begin('watchRetainedWal');
    running.endOne();
    expect(await copies[0]).toBe('copied');
    const another = running.begin('copyParcel');
    for (let i = 0; i < 11; i++) running.endOne();
    expect(await Promise.all([...copies, guard, another])).toHaveLength(12);
  });

  it('that leave hardly one free are told once', async () => {
    const running = new Running(new ActivitySlots(20));
    const begin = (count: number): Promise<unknown>[] =>
      Array.from({ length: count }, () => running.begin('watchGates'));
    const first = begin(17);
    expect(running.warnings).toEqual([]);
    const more = begin(3);
    expect(running.warnings).toEqual([expect.stringMatching(/runs 18 of the 20 .* VERDIGRIS_ACTIVITIES/)]);
    for (let i = 0; i < 20; i++) running.endOne();
    await Promise.all([...first, ...more]);
  });
});
