import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { BackfillPace } from '../../src/postgres/migrate/backfill-pace.js';
import { BatchSize } from '../../src/postgres/migrate/batch-size.js';

const BOUNDS = { start: 200, min: 10, max: 50_000 };

describe('the pace of a backfill', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  const looks = (pace: BackfillPace, times: number, active: number): void => {
    for (let n = 0; n < times; n++) {
      vi.advanceTimersByTime(20);
      pace.saw(active);
    }
  };

  it('begins as beside others, and is full once nobody has been seen for two seconds', () => {
    const pace = new BackfillPace({ batchMs: 250, parallel: 4 });
    expect([pace.batchMs, pace.lanesNow]).toEqual([10, 1]);
    looks(pace, 90, 0);
    expect([pace.batchMs, pace.lanesNow]).toEqual([10, 4]);
    looks(pace, 20, 0);
    expect([pace.batchMs, pace.lanesNow]).toEqual([250, 4]);
  });

  it('one look at somebody makes batches short, some more leave one lane', () => {
    const pace = new BackfillPace({ batchMs: 250, parallel: 4 });
    looks(pace, 200, 0);
    looks(pace, 1, 3);
    expect([pace.batchMs, pace.lanesNow]).toEqual([10, 4]);
    looks(pace, 2, 1);
    expect([pace.batchMs, pace.lanesNow]).toEqual([10, 1]);
  });

  it('somebody who is rarely seen leaves the lanes, not the length of the batches', () => {
    const pace = new BackfillPace({ batchMs: 250, parallel: 4 });
    looks(pace, 100, 0);
    for (let n = 0; n < 10; n++) {
      looks(pace, 1, 1);
      looks(pace, 60, 0);
      expect([pace.batchMs, pace.lanesNow]).toEqual([10, 4]);
    }
  });

  it('is what the plan says, and never faster than alone', () => {
    const pace = new BackfillPace({ batchMs: 5, parallel: 2, besideOthers: { batchMs: 50, parallel: 8 } });
    expect([pace.batchMs, pace.lanesNow]).toEqual([5, 2]);
  });

  it('runs no more batches at once than lanes are allowed, each lane in its turn', async () => {
    const pace = new BackfillPace({ batchMs: 250, parallel: 3 });
    const order: string[] = [];
    let running = 0;
    const lane = async (name: string): Promise<void> => {
      for (let n = 0; n < 3; n++) {
        await pace.turn(async () => {
          running += 1;
          expect(running).toBe(1);
          order.push(name);
          await Promise.resolve();
          running -= 1;
          pace.saw(1);
        });
      }
    };
    await Promise.all([lane('a'), lane('b'), lane('c')]);
    expect(order.slice(0, 6)).toEqual(['a', 'b', 'c', 'a', 'b', 'c']);
  });
});

describe('the size of a batch', () => {
  it('follows the time that is wanted, at most doubled and at least a quarter', () => {
    const size = new BatchSize(BOUNDS);
    size.took(200, 10, 250);
    expect(size.current).toBe(400);
    size.took(400, 4_000, 250);
    expect(size.current).toBe(100);
  });

  it('is as much smaller at once when a shorter time is wanted', () => {
    const size = new BatchSize(BOUNDS);
    for (let n = 0; n < 8; n++) size.took(size.current, 100, 250);
    const alone = size.current;
    size.took(alone, 250, 10);
    expect(size.current).toBe(Math.round(alone / 25));
  });

  it('grows back slowly after somebody has waited', () => {
    const size = new BatchSize(BOUNDS);
    for (let n = 0; n < 6; n++) size.took(size.current, 100, 250);
    const before = size.current;
    size.halve();
    size.took(size.current, 1, 250);
    expect(size.current).toBeLessThan(before * 0.6);
  });
});
