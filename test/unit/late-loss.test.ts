import { expect, it } from 'vitest';
import { lossBetween } from '../../src/postgres/standby-loss.js';
import {
  countedLateLossOf,
  isAccepted,
  isHelpedByLoss,
  LATE,
  withAccepted,
  type Loss,
} from '../../workflows/lib/loss.js';

/** What a try that blue is too late for says; null where it can't be counted. */
function behind(writes: number | null): Loss {
  const at = '2026-11-29 10:00:00';
  const loses = lossBetween({ lsn: '0/0', writes: 0, at }, { lsn: '0/0', writes, at });
  const said = countedLateLossOf(`blue is too far behind; forced now, a rollback would lose ${loses}\nNext step: wait`);
  if (said === null) throw new Error('nothing is named');
  return said;
}

it('a loss that blue is only late for covers what is named later, unless that is clearly more', () => {
  for (const [before, now, covered] of [
    [10, 10, true],
    [10, 1_010, true],
    [10, 90_000, false],
    [40_000, 80_000, true],
    [40_000, 80_001, false],
    [10, null, false],
  ] as const) {
    expect(isAccepted(withAccepted({}, behind(before)), behind(now)), `${before} then ${now}`).toBe(covered);
  }
  expect(withAccepted(behind(40_000), behind(10))).toEqual(behind(40_000));
  expect(withAccepted(behind(10), behind(40_000))).toEqual(behind(40_000));
});

it('what was accepted while nobody could count it is no answer to a count, nor the other way round', () => {
  expect(isAccepted(withAccepted({}, LATE), behind(90_000))).toBe(false);
  expect(isAccepted(withAccepted({}, behind(10)), LATE)).toBe(false);
  expect(isAccepted(withAccepted({}, LATE), LATE)).toBe(true);
  expect(isAccepted(withAccepted({}, behind(10)), { feed: behind(10).behind ?? '' })).toBe(false);
  expect(countedLateLossOf('blue is too far behind\nNext step: a rollback would lose 7')).toBeNull();
});

it('helps a try that is blocked where blue does not follow, and no other', () => {
  expect(isHelpedByLoss('PromotionBlocked', 'blue did not catch up within 15 s')).toBe(true);
  expect(isHelpedByLoss('PromotionBlocked', 'writers did not end. Writing longest: pid 7')).toBe(false);
  const lock = 'PostgreSQL refused: canceling statement due to lock timeout (55P03)';
  for (const type of ['SqlError', 'ConnectionFailed', 'StaleEpoch', 'UnexpectedError', undefined]) {
    expect(isHelpedByLoss(type, lock), type).toBe(false);
  }
});
