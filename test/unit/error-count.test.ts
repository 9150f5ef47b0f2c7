import { describe, expect, it } from 'vitest';
import { callsForComparison, newlyMissed } from '../../activities/standby.js';
import { planSchema } from '../../src/plan/schema.js';
import { errorsSince } from '../../src/postgres/error-count.js';
import type { Session } from '../../src/postgres/session.js';
import { failsAgain } from '../../src/postgres/dead-feed.js';
import { FeedErrors, type FeedContext } from '../../src/postgres/stuck-feed.js';

describe('the errors that a subscription has met', () => {
  it('are those since the counter began anew, where it is lower than it was', () => {
    expect(errorsSince(50, 53)).toBe(3);
    expect(errorsSince(50, 50)).toBe(0);
    expect(errorsSince(50, 3)).toBe(3);
  });

  it('that changes met no row are news at once, more of them after a while, and when they have begun anew', () => {
    let isLater = false;
    const isNews = newlyMissed(0, () => isLater);
    expect([{}, { missed: 0 }, { missed: 2 }].map(isNews)).toEqual([false, false, true]);
    const more = newlyMissed(2, () => isLater);
    expect([{ missed: 2 }, { missed: 3 }].map(more)).toEqual([false, false]);
    isLater = true;
    expect([{ missed: 2 }, { missed: 3 }].map(more)).toEqual([false, true]);
    isLater = false;
    expect([{ missed: 0 }, {}, { missed: 1 }].map(more)).toEqual([false, false, true]);
  });

  it('show a feed to blue that fails again and again after a crash of blue, which had met many before', () => {
    expect(failsAgain({ errors: 50 }, 1, 3)).toBe(true);
    expect(failsAgain({ errors: 50 }, 51, 52)).toBe(true);
    expect(failsAgain({ errors: 50 }, 50, 51)).toBe(false);
    expect(failsAgain({ errors: 50 }, 2, 2)).toBe(false);
    expect(failsAgain(undefined, 1, 2)).toBe(false);
  });

  it('show a feed to green that stands still after a crash of green', async () => {
    let errors = 40;
    const answers = (sql: string): object[] => {
      if (sql.includes('pg_stat_subscription_stats')) return [{ enabled: true, apply_pid: 1, errors: String(errors) }];
      return sql.startsWith('SELECT confirmed_flush_lsn') ? [{ position: '0/10' }] : [];
    };
    const query = (sql: string): Promise<object> => Promise.resolve({ rows: answers(sql) });
    const session = { query } as unknown as Session;
    const plan = planSchema.parse({ name: 'p', blue: { connection: 'b' }, green: { connection: 'g' } });
    const context = { run: { runId: 'run', migration: 'p' }, plan } as FeedContext;
    const feed = new FeedErrors(context, session, session);
    const seen: boolean[] = [];
    for (errors of [40, 1, 2, 3, 4]) seen.push(await feed.isStuck());
    // Three of them, room, and another one.
    expect(seen).toEqual([false, false, false, false, true]);
  });
});

it('what only a comparison ends is told once, and again where it is something else; not to a run of an earlier version', () => {
  const failedOver = { comparisonEndsIt: '1 00000002' };
  expect(callsForComparison(failedOver, null)).toBe(true);
  expect(callsForComparison(failedOver, '1 00000002')).toBe(false);
  expect(callsForComparison({ comparisonEndsIt: '1 00000003' }, '1 00000002')).toBe(true);
  expect(callsForComparison({}, '1 00000002')).toBe(false);
  expect(callsForComparison(failedOver, undefined)).toBe(false);
});
