import { CancelledFailure } from '@temporalio/activity';
import type { Info } from '@temporalio/activity';
import { MockActivityEnvironment } from '@temporalio/testing';
import { describe, expect, it } from 'vitest';
import { compareInTurn, type ComparisonNews, type Round } from '../../activities/regular-comparison.js';
import type { VerificationResult } from '../../activities/verify.js';

const HOUR = 3_600_000;
const EQUAL: VerificationResult = {
  ...{ scope: 'changed', tables: 1, rowsVerified: 7, differingRows: 0, examples: [] },
  at: '2026-11-30T01:00:00.000Z',
};
const DIFFERS: VerificationResult = { ...EQUAL, differingRows: 1, examples: ['public.t "id" = 1: missing'] };
const ROUND: Round = { pass: 'pass 7', firstInMs: HOUR };

interface Attempt {
  readonly attempt?: number;
  readonly heartbeatDetails?: unknown;
  /** When it begins, ms since the activity was asked for. */
  readonly atMs?: number;
  readonly round?: Partial<Round>;
  readonly finds?: VerificationResult;
}

/** One attempt. Other than `ended`, filled when that is settled. */
function attempt({ attempt: nth = 1, heartbeatDetails, atMs = 0, round = {}, finds = EQUAL }: Attempt) {
  const times = { scheduledTimestampMs: 1, currentAttemptScheduledTimestampMs: 1 + atMs };
  const activity = new MockActivityEnvironment({ attempt: nth, heartbeatDetails, ...times } as Partial<Info>);
  const passes: string[] = [];
  const beats: unknown[] = [];
  activity.on('heartbeat', (details: unknown) => beats.push(details));
  const compare = (pass: string): Promise<VerificationResult> => {
    passes.push(pass);
    return Promise.resolve(finds);
  };
  const { signal } = new AbortController();
  const turns = { everyMs: HOUR, signal, report: () => undefined, compare };
  const ended: Promise<ComparisonNews> = activity.run(() => compareInTurn({ ...ROUND, ...round }, turns));
  return { ended, passes, beats };
}

/** What is known once a comparison has found it. */
async function markOf(finds: VerificationResult): Promise<string> {
  return (await attempt({ attempt: 2, atMs: HOUR, heartbeatDetails: { attempt: 1, dueMs: HOUR }, finds }).ended).mark;
}

const dueIn = (ms: number): object => ({
  ...{ type: 'NothingNew', nonRetryable: false, category: 'BENIGN' },
  nextRetryDelay: expect.closeTo(ms, -3) as number,
});

describe('the comparisons of a standby window', () => {
  it('begin when the first one is due: until then nothing is compared', async () => {
    const { ended, passes, beats } = attempt({});
    await expect(ended).rejects.toMatchObject({
      ...dueIn(HOUR),
      message: 'no failure: the next comparison comes in 1 h',
    });
    expect(passes).toEqual([]);
    expect(beats).toEqual([{ attempt: 1, dueMs: HOUR }]);
  });

  it('tell what the first one finds, whatever it is', async () => {
    const { ended } = attempt({ attempt: 2, atMs: HOUR, heartbeatDetails: { attempt: 1, dueMs: HOUR } });
    expect(await ended).toMatchObject(EQUAL);
  });

  it('that find what is known are not told: the next one comes after the interval, and people see what was compared', async () => {
    for (const finds of [EQUAL, DIFFERS, { ...EQUAL, notCompared: ['public.t.note'] }]) {
      const known = await markOf(finds);
      const { differingRows } = finds;
      const before = { attempt: 4, dueMs: 4 * HOUR };
      const { ended, beats } = attempt({
        attempt: 5,
        atMs: 4 * HOUR,
        heartbeatDetails: before,
        round: { known },
        finds,
      });
      await expect(ended).rejects.toMatchObject({
        ...dueIn(HOUR),
        message: `no failure: green and blue were compared at ${EQUAL.at}, and nothing is new (${differingRows} rows differ); the next comparison comes in 1 h`,
      });
      expect(beats.at(-1)).toEqual({
        ...{ attempt: 5, dueMs: expect.closeTo(5 * HOUR, -3) as number },
        last: { at: EQUAL.at, rowsVerified: 7, differingRows },
      });
    }
  });

  it.each([
    ['differ where they did not', EQUAL, DIFFERS],
    ['differ no more', DIFFERS, EQUAL],
    ['are others', DIFFERS, { ...DIFFERS, examples: ['public.t "id" = 2: missing'] }],
    ['are not compared any more', EQUAL, { ...EQUAL, notCompared: ['public.t.note'] }],
  ])('tell at once when rows %s', async (_what, before, finds) => {
    const known = await markOf(before);
    const details = { attempt: 1, dueMs: HOUR };
    const { ended } = attempt({ attempt: 2, atMs: HOUR, heartbeatDetails: details, round: { known }, finds });
    expect(await ended).toMatchObject(finds);
  });

  it('tell twice a day that nothing is new', async () => {
    const known = await markOf(EQUAL);
    const at = (hours: number): Attempt => ({
      ...{ attempt: 2, atMs: hours * HOUR, heartbeatDetails: { attempt: 1, dueMs: hours * HOUR }, round: { known } },
    });
    await expect(attempt(at(11)).ended).rejects.toMatchObject({ type: 'NothingNew' });
    expect(await attempt(at(12)).ended).toMatchObject(EQUAL);
  });

  it('go on where one was killed, with its cursor; what comes of that is told, since what was in its way may have been', async () => {
    const known = await markOf(EQUAL);
    const killed = { attempt: 2, dueMs: HOUR, comparing: 'pass 7, 2' };
    const { ended, passes } = attempt({ attempt: 3, atMs: HOUR, heartbeatDetails: killed, round: { known } });
    expect(await ended).toMatchObject(EQUAL);
    expect(passes).toEqual(['pass 7, 2']);
  });

  it('compare anew where nobody knows what was compared: a comparison that is over would read no row', async () => {
    const { ended, passes } = attempt({ attempt: 3, atMs: 2 * HOUR });
    await ended;
    expect(passes).toEqual(['pass 7, 3']);
  });

  it('wait for the rest of the time where an attempt comes early', async () => {
    const { ended, passes } = attempt({
      attempt: 3,
      atMs: 1.5 * HOUR,
      heartbeatDetails: { attempt: 2, dueMs: 2 * HOUR },
    });
    await expect(ended).rejects.toMatchObject(dueIn(HOUR / 2));
    expect(passes).toEqual([]);
  });

  it('go on at once with one that a pause has broken off, which says which', async () => {
    const activity = new MockActivityEnvironment();
    const stop = new AbortController();
    const compare = (): Promise<never> => {
      stop.abort();
      return Promise.reject(new CancelledFailure('cancelled'));
    };
    const turns = { everyMs: HOUR, signal: stop.signal, report: () => undefined, compare };
    const ended = activity.run(() => compareInTurn({ pass: 'pass 7', firstInMs: 0 }, turns));
    await expect(ended).rejects.toMatchObject({ name: 'CancelledFailure', details: [{ resumes: 'pass 7, 1' }] });
    const next = attempt({ round: { pass: 'pass 8', firstInMs: 0, resumes: 'pass 7, 1' } });
    await next.ended;
    expect(next.passes).toEqual(['pass 7, 1']);
  });
});
