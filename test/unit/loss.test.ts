import { describe, expect, it } from 'vitest';
import { lossBetween } from '../../src/postgres/standby-loss.js';
import { feedLossOf, isAccepted, LATE, lossInWords, withAccepted, type Loss } from '../../workflows/lib/loss.js';

/** A dead feed's loss as the databases say it; null where it can't be counted. */
function feed(writes: number | null): Loss {
  const at = '2026-11-22 10:00:00';
  return { feed: lossBetween({ lsn: '0/0', writes: 0, at }, { lsn: '0/0', writes, at }) };
}

describe('a loss that was accepted', () => {
  it('covers itself, and nothing that was not named', () => {
    const accepted = withAccepted({}, { onlyOnGreen: 'column note' });
    expect(isAccepted(accepted, { onlyOnGreen: 'column note' })).toBe(true);
    expect(isAccepted(accepted, { onlyOnGreen: 'column note, table coupons' })).toBe(false);
    expect(isAccepted(accepted, feed(1))).toBe(false);
    expect(isAccepted(accepted, { onlyOnGreen: 'column note', ...feed(1) })).toBe(false);
    expect(isAccepted(accepted, LATE)).toBe(false);
    expect(isAccepted({}, {})).toBe(true);
  });

  it('covers what a dead feed loses beyond it, unless that is clearly more', () => {
    for (const [before, now, covered] of [
      [12, 12, true],
      [12, 1_012, true],
      [12, 1_013, false],
      [12, 40_000, false],
      [40_000, 80_000, true],
      [40_000, 80_001, false],
      [12, null, false],
      [null, 40_000, true],
      [null, null, true],
    ] as const) {
      expect(isAccepted(withAccepted({}, feed(before)), feed(now)), `${before} then ${now}`).toBe(covered);
    }
  });

  it('stays the larger one, whichever was accepted last', () => {
    expect(withAccepted(feed(40_000), feed(12))).toEqual(feed(40_000));
    expect(withAccepted(feed(12), feed(40_000))).toEqual(feed(40_000));
    expect(lossInWords(withAccepted({ rows: '1 row differs' }, feed(1)))).toMatch(/^1 row differs; about 1 write \(/);
    expect(lossInWords({})).toBeNull();
  });

  it('is read from what the try says', () => {
    const said = `its slot is gone; a rollback would lose ${feed(7).feed ?? ''}\nNext step: mend the feed`;
    expect(feedLossOf(said)).toEqual(feed(7));
    expect(isAccepted(feed(7), feedLossOf(said))).toBe(true);
  });
});
