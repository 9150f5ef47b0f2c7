import { describe, expect, it } from 'vitest';
import { whyReplaced } from '../../src/postgres/server-position.js';
import { canTellSince } from '../../src/postgres/verify/last-pass.js';

const THEN = { system: '7301', timeline: '00000001', lsn: 'F/FFFFFFF0' };
const NOW = { ...THEN, lsn: '10/10' };

describe('a server is another one', () => {
  it.each([
    ['by its system identifier', { system: '7302' }, 'blue is another server than it was'],
    ['by its timeline', { timeline: '00000002' }, 'blue was failed over or restored (its timeline has changed)'],
    ['by less WAL', { lsn: 'F/FFFFFFE0' }, 'blue was restored to an earlier state'],
  ])('%s, and what was compared on it says nothing any more', (_, other, why) => {
    const now = { ...NOW, ...other };
    expect(whyReplaced('blue', THEN, now)).toBe(why);
    expect(canTellSince('blue', { xid: '100', ...THEN }, { xid: '200', ...now })).toBe(false);
  });

  it('not when it has gone on, nor for what an earlier version or a role without rights has not written down', () => {
    expect(whyReplaced('blue', THEN, NOW)).toBeUndefined();
    expect(whyReplaced('blue', { timeline: THEN.timeline }, NOW)).toBeUndefined();
    expect(whyReplaced('blue', { ...THEN, system: '' }, NOW)).toBeUndefined();
    expect(whyReplaced('blue', THEN, { ...NOW, system: '' })).toBeUndefined();
    expect(canTellSince('blue', { xid: '100', ...THEN }, { xid: '200', ...NOW })).toBe(true);
  });
});
