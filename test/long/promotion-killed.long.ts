import { afterAll, beforeAll, describe, it } from 'vitest';
import { MovedRig } from '../support/moved-rig.js';

/*
 * The quick part of test/faults/promotion-kill-points.faults.ts: right after the decision. Right before it:
 * test/postgres/mistakes-promotion.test.ts.
 */

describe('a promotion whose worker is killed', () => {
  let moved: MovedRig;

  beforeAll(async () => {
    moved = await MovedRig.create('promotion faults');
  });

  afterAll(() => moved.rig.close());

  it.each([['kill', 'after', /setval\(.*; COMMIT$/]] as const)(
    '%s %s %s: another worker ends it, and every write is there once',
    (fault, when, text) => moved.endsWell(fault, when, text),
  );
});
