import { describe, expect, it } from 'vitest';
import { whyReplaced } from '../../src/postgres/server-position.js';
import { canTellSince, whoRestarted } from '../../src/postgres/verify/last-pass.js';

const THEN = { system: '7301', timeline: '00000001', lsn: 'F/FFFFFFF0' };
const NOW = { ...THEN, lsn: '10/10', started: '1700000000.5' };

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

  it('was started anew where its start is another one, unless an earlier version has not written it down', () => {
    const now = { blue: { xid: '200', ...NOW }, green: { xid: '300', ...NOW } };
    expect(whoRestarted(now, now)).toBeUndefined();
    expect(whoRestarted({ ...now, green: { ...now.green, started: '1700000000.4' } }, now)).toBe('green');
    expect(whoRestarted({ ...now, blue: { xid: '200', ...THEN } }, now)).toBeUndefined();
  });
});
