import { describe, expect, it } from 'vitest';
import { VerdigrisError } from '../../src/errors.js';
import { promotionBlocked } from '../../src/postgres/hold.js';
import { refuseChangedSchema } from '../../src/postgres/prepare-promotion.js';
import { whyWayBackWaits, withoutApproval } from '../../workflows/lib/way-back-text.js';

const STAYS = 'it is tried again by itself; `retire` gives the rollback up, and writes stay on green';

function messageOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof VerdigrisError) return error.message;
  }
  throw new Error('it did not fail');
}

describe('what a way back that is blocked says', () => {
  it('asks nobody to approve a promotion, and says that it goes on by itself and what `retire` would do', () => {
    expect(whyWayBackWaits(promotionBlocked('green: pid 4711').message, '', 'on green')).toBe(
      `writes can't go back to blue yet: green: pid 4711\nNext step: remove what stands in the way; ${STAYS}`,
    );
    expect(whyWayBackWaits('permission denied', '; the feed is still owed', 'where they are')).toBe(
      `permission denied; the feed is still owed\nNext step: ${STAYS.replace('on green', 'where they are')}`,
    );
  });

  const DDL = [{ table: 'public.t', kind: 'column', name: 'a', before: 'int', after: null }] as const;
  it.each([
    [
      messageOf(() => refuseChangedSchema({ differences: [...DDL] })),
      'undo that change on blue, or make it on green as well',
    ],
    [
      'x\nNext step: on blue: GRANT a; GRANT b; then approve the promotion again (a rollback is tried again by itself); writes go on as before',
      'on blue: GRANT a; GRANT b',
    ],
    ['x\nNext step: end that session or wait for it, then resume or approve again', 'end that session or wait for it'],
    ['x\nNext step: bring it back', 'bring it back'],
  ])('keeps what is to be done of %j', (message, next) => {
    expect(withoutApproval(message).split('\nNext step: ')[1]).toBe(next);
  });
});
