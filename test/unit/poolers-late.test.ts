import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { MockActivityEnvironment } from '@temporalio/testing';
import { describe, expect, it } from 'vitest';
import { alive } from '../../activities/context.js';
import { awaited, isAwaited } from '../../activities/promotion-waits.js';
import { temporalClock } from '../../activities/temporal-clock.js';
import { VerdigrisError } from '../../src/errors.js';
import { notReleased, PoolerAway, PoolerTaken } from '../../src/postgres/pools.js';

const LOST = notReleased([{ pooler: 'pooler_1', why: 'it does not answer' }]);

const CANNOT_OPEN = 'its console can not be opened';
const AWAY = new PoolerAway({
  ...{ type: 'PromotionBlocked', message: `it could not go through: ${CANNOT_OPEN}`, nextStep: 'approve again' },
  cause: new VerdigrisError({ type: 'ConnectionFailed', message: CANNOT_OPEN, nextStep: 'start it', retryable: true }),
});
const TAKEN = new PoolerTaken({ type: 'PromotionBlocked', message: 'another one is at it', nextStep: 'wait' });

/** An attempt that begins now, by a Temporal whose clock is this one's. */
function attempt(): { readonly begun: number; readonly context: MockActivityEnvironment } {
  const begun = Date.now();
  const lastStartedTime = { seconds: Math.floor(begun / 1_000), nanos: (begun % 1_000) * 1e6 };
  const describe = () => Promise.resolve({ raw: { pendingActivities: [{ activityId: 'test', lastStartedTime }] } });
  const withAbortSignal = (_signal: AbortSignal, work: () => unknown): unknown => work();
  const client = { workflow: { getHandle: () => ({ describe }) }, withAbortSignal } as unknown as Client;
  return { begun, context: new MockActivityEnvironment({ activityId: 'test' }, { client }) };
}

/** What a promotion ends with that has met this, asked for until so many ms from now. */
async function endsWith(error: Error, ms: number | undefined): Promise<unknown> {
  const { begun, context } = attempt();
  const notAfter = ms === undefined ? undefined : new Date(begun + ms).toISOString();
  const { signal } = new AbortController();
  return context.run(() => awaited(error, signal, (text) => text, notAfter));
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

describe('a pooler that is away, or in another promotion, before anybody waits', () => {
  it('is waited for as long as the promotion may begin, by tries that are not those of the plan', async () => {
    const [away, taken] = [await endsWith(AWAY, 60_000), await endsWith(TAKEN, 60_000)];
    expect(away).toMatchObject({ type: 'ConnectionFailed', nonRetryable: false, nextRetryDelay: 1_000 });
    expect(taken).toMatchObject({ type: 'PromotionBlocked', nonRetryable: false, message: TAKEN.message });
  });

  it('is waited for by a rest of its own where two promotions have met', async () => {
    const rests = await Promise.all(Array.from({ length: 20 }, () => endsWith(TAKEN, 60_000)));
    const ms = rests.map((one) => (one as { nextRetryDelay: number }).nextRetryDelay);
    expect(Math.min(...ms)).toBeGreaterThanOrEqual(200);
    expect(Math.max(...ms)).toBeLessThanOrEqual(1_000);
    expect(new Set(ms).size).toBeGreaterThan(1);
  });

  it('is named when it is too late', async () => {
    for (const [error, what] of [
      [AWAY, CANNOT_OPEN],
      [TAKEN, 'another one is at it'],
    ] as const) {
      const late = await endsWith(error, -1);
      expect(late).toMatchObject({ type: 'PromotionBlocked', retryable: false });
      expect(String(late)).toMatch(new RegExp(`it could not begin before .*: ${what}`));
    }
  });

  it('is waited for by nobody who knows no such time', async () => {
    expect(await endsWith(TAKEN, undefined)).toBe(TAKEN);
  });
});

describe('the time until which a promotion may begin', () => {
  const dependencies = { environment: {}, redact: (text: string) => text };

  it('is known as well late in an attempt: what that has waited for has passed', async () => {
    const { context } = attempt();
    const behindMs: number = await context.run(() =>
      alive(dependencies, async () => {
        await sleep(400);
        const now = await temporalClock();
        return Date.now() - now();
      }),
    );
    expect(Math.abs(behindMs)).toBeLessThan(200);
  });

  it('is decided on once in an attempt: one that does not give its tries up is followed by another one', async () => {
    const { begun, context } = attempt();
    const notAfter = new Date(begun + 1_300).toISOString();
    const { signal } = new AbortController();
    const [follows, ended]: readonly [boolean, unknown] = await context.run(() =>
      alive(dependencies, async () => {
        const isFollowed = await isAwaited(AWAY, notAfter);
        await sleep(600);
        return [isFollowed, await awaited(AWAY, signal, (text) => text, notAfter)] as const;
      }),
    );
    expect(follows).toBe(true);
    expect(ended).toMatchObject({ type: 'ConnectionFailed', nonRetryable: false });
  });
});
