import { describe, expect, it } from 'vitest';
import { standbyNow } from '../../src/cli/standby-now.js';

type Pending = Parameters<typeof standbyNow>[0][number];

function pending(name: string, details?: unknown, seconds = 1_764_464_400): Pending {
  const data = new TextEncoder().encode(typeof details === 'string' ? details : JSON.stringify(details));
  const heartbeatDetails = details === undefined ? null : { payloads: [{ data }] };
  return { activityType: { name }, heartbeatDetails, scheduledTime: { seconds } } as unknown as Pending;
}

function failure(type: string, message: string): NonNullable<Pending['lastFailure']> {
  return { message, applicationFailureInfo: { type } };
}

const LAST = { at: '2025-11-30T00:00:00.000Z', rowsVerified: 5, differingRows: 0 };
const PROGRESS = { step: 'verify', object: 'public.t', done: 1, total: 2, rowsPerSecond: 0, etaSeconds: null };

describe('what the activities of a standby window say of themselves', () => {
  it.each<[string, Pending, string[]]>([
    [
      'the lag of now',
      pending('watchStandby', { health: 'healthy', lagSeconds: 0.0123 }),
      ['feed to blue: healthy, lag 0.012 s'],
    ],
    [
      'a feed whose lag nobody knows',
      pending('watchStandby', { health: 'unreachable', lagSeconds: null }),
      ['feed to blue: unreachable'],
    ],
    [
      'the last comparison and the next',
      pending('compareRegularly', { attempt: 5, dueMs: 1, last: LAST }),
      [
        'green and blue were compared at 2025-11-30T00:00:00.000Z, 0 rows differ; the next comparison comes at 2025-11-30T01:00:00.000Z',
      ],
    ],
    [
      'the first comparison',
      pending('compareRegularly', { attempt: 1, dueMs: 1 }),
      ['the next comparison comes at 2025-11-30T01:00:00.000Z'],
    ],
    [
      'a comparison that goes on',
      pending('compareRegularly', { attempt: 6, dueMs: 1, comparing: 'pass 7, 6', progress: PROGRESS }),
      ['green and blue are being compared: verify public.t: 50 % (1 of 2)'],
    ],
    [
      'why a comparison could not be made',
      {
        ...pending('compareRegularly', { attempt: 6, dueMs: 1, comparing: 'pass 7, 6', progress: PROGRESS }),
        ...{ state: 1, lastFailure: failure('ReplicationStalled', 'blue is behind\nNext step: wait') },
      },
      ["green and blue can't be compared: blue is behind; tried again at 2025-11-30T01:00:00.000Z"],
    ],
    [
      'the turn of a comparison that has found nothing new',
      {
        ...pending('compareRegularly', { attempt: 5, dueMs: 1 }),
        ...{ state: 1, lastFailure: failure('NothingNew', 'no failure: ...') },
      },
      ['the next comparison comes at 2025-11-30T01:00:00.000Z'],
    ],
    [
      'a feed that nobody sees now',
      {
        ...pending('watchStandby', { health: 'healthy', lagSeconds: 0.0123 }),
        ...{ state: 1, lastFailure: failure('ConnectionUnknown', 'no connection') },
      },
      ['the feed to blue is not seen: no connection; tried again at 2025-11-30T01:00:00.000Z'],
    ],
    ['nothing of others', pending('watchSchema', { side: 'blue', lookMs: 5 }), []],
    ['nothing of a watch that has not said anything yet', pending('watchStandby'), []],
    ['nothing of what is no JSON', pending('watchStandby', '\u0001\u0002'), []],
  ])('is shown: %s', (_what, one, lines) => {
    expect(standbyNow([one])).toEqual(lines);
  });
});
