import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MovedRig } from '../support/moved-rig.js';

/* The most telling points of test/faults/promotion-freeze-points.faults.ts, and one more of promotion-kill-points.faults.ts. */

describe('a promotion whose worker is harmed', () => {
  let moved: MovedRig;

  beforeAll(async () => {
    moved = await MovedRig.create('promotion frozen');
  });

  afterAll(() => moved.rig.close());

  it.each([
    ['kill', 'before', /SELECT verdigris\.open_fence/],
    ['freeze', 'before', /setval\(.*; COMMIT$/],
    // While it prepares: what it goes on with must not take the feed back away that the other one has begun.
    ['freeze', 'before', /^SELECT pg_notify/],
  ] as const)('%s %s %s: another worker ends it, and every write is there once', (fault, when, text) =>
    moved.endsWell(fault, when, text),
  );

  it('frozen before it disarms the fence and woken in the hold of the way back: the way back is refused, not unfenced', async () => {
    const { rig } = moved;
    if (rig.primary === 'green') await rig.moveOn();
    const [late, back] = [await rig.actor(), await rig.actor()];
    expect(await late.run('promote', rig.move('blue'))).toBe('done');
    // Before the transaction that disarms the first table, whose guard would hold the route's row.
    const stopped = late.stopAt(moved.find(/DISABLE TRIGGER/), 'before');
    const lateOutcome = late.run('finish', rig.move('blue'));
    const held = await stopped;
    late.freeze();
    await rig.moveOn(['finish']);

    const decide = moved.find(/verdigris\.decide/);
    const inHold = back.stopAt({ ...decide, text: decide.text.replace("'green'", "'blue'"), to: 'green' }, 'before');
    // A writer that waits at the fence has its table locked, and keeps it from being disarmed.
    await rig.writers.pause();
    const backOutcome = back.run('promote', { ...rig.move('green'), maxHoldMs: 10_000 });
    const deciding = await Promise.race([inHold, backOutcome]);
    if (typeof deciding === 'string') throw new Error(`it did not come to the decision: ${deciding}`);
    held.release();
    late.thaw();
    expect(await lateOutcome).toBe('done');
    deciding.release();
    expect(await backOutcome).toMatch(/the fence is not in force/);
    await Promise.all([late.kill(), back.kill()]);
    await rig.audit();
    await rig.moveOn();
    await rig.audit();
  });

  it('frozen before it looks at what is published for the way back, and woken when another one with other tables has moved writes: the feed stays', async () => {
    const { rig } = moved;
    if (rig.primary === 'green') await rig.moveOn();
    const late = await rig.actor();
    const feed = (): Promise<unknown[]> =>
      rig.ours('blue', async (blue) => {
        const { rows } = await blue.query(
          `SELECT oid, subname, subenabled FROM pg_subscription
            WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
        );
        return rows;
      });
    const move = rig.move('blue');
    const stopped = late.stopAt(moved.find(/FROM pg_publication p JOIN pg_publication_rel/), 'before');
    const outcome = late.run('promote', { ...move, tables: move.tables.slice(1) });
    const held = await Promise.race([stopped, outcome]);
    if (typeof held === 'string') throw new Error(`it did not come there: ${held}`);
    late.freeze();
    await rig.moveOn();
    const living = await feed();
    expect(living).toMatchObject([{ subenabled: true }]);
    held.release();
    late.thaw();
    expect(await outcome).toMatch(/writes are not on blue any more/);
    await late.kill();
    expect(await feed()).toEqual(living);
    await rig.audit();
  });
});
