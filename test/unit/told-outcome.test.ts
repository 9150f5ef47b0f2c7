import { describe, expect, it } from 'vitest';
import { ToldOutcome } from '../../src/gates/told-outcome.js';

const MINUTE = 60_000;

describe('what people were told of the gates of a stage that has passed', () => {
  it('is out of date when they have said nothing for two minutes, and no moment sooner', () => {
    const told = new ToldOutcome(false);
    expect(told.isOutOfDate('pass', 0)).toBe(false);
    expect(told.isOutOfDate('inconclusive', MINUTE)).toBe(false);
    expect(told.isOutOfDate('error', 3 * MINUTE - 1)).toBe(false);
    expect(told.isOutOfDate('error', 3 * MINUTE)).toBe(true);
  });

  it('is not out of date for as long as they pass now and then', () => {
    const told = new ToldOutcome(false);
    for (let minute = 0; minute < 60; minute++) {
      expect(told.isOutOfDate(minute % 2 === 0 ? 'inconclusive' : 'pass', minute * MINUTE)).toBe(false);
    }
  });

  it('is out of date when silent gates have passed for two minutes', () => {
    const told = new ToldOutcome(true);
    expect(told.isOutOfDate('inconclusive', 0)).toBe(false);
    expect(told.isOutOfDate('pass', MINUTE)).toBe(false);
    expect(told.isOutOfDate('inconclusive', 2 * MINUTE)).toBe(false);
    expect(told.isOutOfDate('pass', 3 * MINUTE)).toBe(false);
    expect(told.isOutOfDate('pass', 5 * MINUTE)).toBe(true);
  });
});
