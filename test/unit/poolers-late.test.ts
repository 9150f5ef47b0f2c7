import type { Client } from '@temporalio/client';
import { MockActivityEnvironment } from '@temporalio/testing';
import { describe, expect, it } from 'vitest';
import { releasedUntil } from '../../activities/promote.js';
import { VerdigrisError } from '../../src/errors.js';
import { notReleased } from '../../src/postgres/pools.js';

const LOST = notReleased([{ pooler: 'pooler_1', why: 'it does not answer' }]);

/** What a promotion ends with that has met this, asked for until so many ms from now. */
async function endsWith(error: Error, ms: number | undefined): Promise<unknown> {
  const begun = Date.now();
  const lastStartedTime = { seconds: Math.floor(begun / 1_000), nanos: (begun % 1_000) * 1e6 };
  const describe = () => Promise.resolve({ raw: { pendingActivities: [{ activityId: 'test', lastStartedTime }] } });
  const withAbortSignal = (_signal: AbortSignal, work: () => unknown): unknown => work();
  const client = { workflow: { getHandle: () => ({ describe }) }, withAbortSignal } as unknown as Client;
  const context = new MockActivityEnvironment({ activityId: 'test' }, { client });
  const notAfter = ms === undefined ? undefined : new Date(begun + ms).toISOString();
  return context.run(() => releasedUntil(error, notAfter));
}

describe('a pooler that can not be released in the try of a promotion', () => {
  it('is tried again for as long as the promotion may begin, and then left to the run', async () => {
    expect(await endsWith(LOST, 60_000)).toMatchObject({ type: 'PoolNotReleased', retryable: true });
    const late = await endsWith(LOST, -1);
    expect(late).toMatchObject({ type: 'PoolNotReleased', retryable: false, message: LOST.message });
  });

  it('is tried again without end on the way back, which knows no such time', async () => {
    expect(await endsWith(LOST, undefined)).toMatchObject({ retryable: true });
  });

  it('is what this is about: nothing else is given up', async () => {
    const other = new VerdigrisError({ type: 'ConnectionFailed', message: 'away', nextStep: 'wait', retryable: true });
    expect(await endsWith(other, -1)).toBe(other);
  });
});
