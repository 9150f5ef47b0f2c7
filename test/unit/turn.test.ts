import { describe, expect, it } from 'vitest';
import { Turn } from '../../src/pgbouncer/turn.js';

const moving = (token?: string) => ({ epoch: 1, side: 'blue', state: 'moving', token }) as const;
const settled = { epoch: 1, side: 'blue', state: 'settled' } as const;

describe('a turn at the PgBouncers', () => {
  it('takes over what it finds before its own announcement, and nothing that comes after', () => {
    const turn = new Turn();
    turn.takeOver(moving('11111111'));
    turn.announce();
    turn.takeOver(moving('22222222'));
    expect(turn.isOthers(moving('11111111'))).toBe(false);
    expect(turn.isOthers(moving('22222222'))).toBe(true);
    expect(turn.isOthers(moving(turn.token))).toBe(false);
    expect(turn.isOwn(moving(turn.token))).toBe(true);
  });

  it('belongs to nobody else while nothing is announced', () => {
    const turn = new Turn();
    expect(turn.isOthers(settled)).toBe(false);
    expect(turn.isOthers(undefined)).toBe(false);
    expect(turn.isOwn(settled)).toBe(false);
  });

  it('tells marks without a token from its own', () => {
    const [before, after] = [new Turn(), new Turn()];
    before.takeOver(moving());
    after.announce();
    expect(before.isOthers(moving())).toBe(false);
    expect(after.isOthers(moving())).toBe(true);
  });

  it('has a token of 8 hex digits that no other one has', () => {
    expect(new Turn().token).toMatch(/^[0-9a-f]{8}$/);
    expect(new Turn().token).not.toBe(new Turn().token);
  });
});
