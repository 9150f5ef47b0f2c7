import { afterAll, beforeAll, describe, it } from 'vitest';
import { MovedRig } from '../support/moved-rig.js';

/* The quick part of test/faults/promotion-kill-points.faults.ts: the points on both sides of the decision. */

describe('a promotion whose worker is killed', () => {
  let moved: MovedRig;

  beforeAll(async () => {
    moved = await MovedRig.create('promotion faults');
  });

  afterAll(() => moved.rig.close());

  it.each([
    ['kill', 'before', /verdigris\.decide/],
    ['kill', 'after', /; COMMIT$/],
  ] as const)('%s %s %s: another worker ends it, and every write is there once', (fault, when, text) =>
    moved.endsWell(fault, when, text),
  );
});
