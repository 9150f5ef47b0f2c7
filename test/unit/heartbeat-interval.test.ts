import { MockActivityEnvironment } from '@temporalio/testing';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { alive } from '../../activities/context.js';
import { createWorker, type WorkerSettings } from '../../src/worker/create-worker.js';
import { heartbeatInterval } from '../../src/worker/heartbeat-interval.js';

/** How often an activity says within 2.3 s that it lives, the first time at its begin. */
async function beats(heartbeatTimeoutMs: number, heartbeatMs?: number): Promise<number> {
  const activity = new MockActivityEnvironment({ heartbeatTimeoutMs });
  let beaten = 0;
  activity.on('heartbeat', () => (beaten += 1));
  const dependencies = { environment: {}, redact: String, ...(heartbeatMs === undefined ? {} : { heartbeatMs }) };
  const over = activity.run(() => alive(dependencies, () => new Promise((resolve) => setTimeout(resolve, 2_300))));
  await vi.advanceTimersByTimeAsync(2_300);
  await over;
  return beaten;
}

describe('the heartbeats of an activity', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('come twice a second by default', async () => {
    expect(await beats(15_000)).toBe(5);
  });

  it('come as often as the worker is told', async () => {
    expect(await beats(15_000, 2_000)).toBe(2);
  });

  it('come twice a second wherever writes may be held, whatever the worker is told', async () => {
    expect(await beats(3_000, 2_000)).toBe(5);
  });
});

describe('what an attempt before has said', () => {
  it('stands until this one says something: it may end before it has looked at that', async () => {
    const said = { attempt: 2, dueMs: 1, comparing: 'pass 7, 2' };
    const activity = new MockActivityEnvironment({ heartbeatTimeoutMs: 15_000, heartbeatDetails: said });
    const beaten: unknown[] = [];
    activity.on('heartbeat', (details) => beaten.push(details));
    const refused = (): Promise<never> => Promise.reject(new Error('no such connection'));
    await expect(activity.run(() => alive({ environment: {}, redact: String }, refused))).rejects.toThrow(/connection/);
    expect(beaten).toEqual([said]);
  });
});

describe('VERDIGRIS_HEARTBEAT', () => {
  it.each<[string | undefined, number]>([
    [undefined, 500],
    ['', 500],
    ['500ms', 500],
    ['2s', 2_000],
    ['5s', 5_000],
  ])('%s is %i ms', (text, ms) => {
    expect(heartbeatInterval({ VERDIGRIS_HEARTBEAT: text })).toBe(ms);
  });

  it.each(['499ms', '6s', '0s', '2', 'often'])('is not "%s"', (text) => {
    expect(() => heartbeatInterval({ VERDIGRIS_HEARTBEAT: text })).toThrow(/500 ms to 5 s/);
  });

  it('is refused when the worker begins, before it connects to anything', async () => {
    const environment = { VERDIGRIS_HEARTBEAT: '1m' };
    const settings = { environment, namespace: 'default', redact: String } as unknown as WorkerSettings;
    await expect(createWorker(settings)).rejects.toThrow(/VERDIGRIS_HEARTBEAT is "1m"/);
  });
});
