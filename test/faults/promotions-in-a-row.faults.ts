import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { otherSide } from '../../src/side.js';
import { recordOutcome } from '../support/outcome-table.js';
import { PromotionRig } from '../support/promotion-rig.js';

/*
 * What one promotion leaves behind must not be in the way of the next one: the writes go to and fro, and every move is
 * audited. VERDIGRIS_FAULT_MOVES says how many moves are made (default 20: ten promotions, each with its way back).
 */

const MOVES = Number(process.env['VERDIGRIS_FAULT_MOVES'] ?? 20);

describe('promotions and ways back in a row', () => {
  let rig: PromotionRig;

  beforeAll(async () => {
    rig = await PromotionRig.create('in a row');
  }, 120_000);

  afterAll(() => rig.close());

  it(
    `${MOVES} of them: each takes place, no write fails, is lost or doubled, and nothing piles up`,
    { timeout: 60_000 + MOVES * 20_000 },
    async () => {
      const started = performance.now();
      let left: unknown;
      for (let n = 1; n <= MOVES; n++) {
        const from = rig.primary;
        const acknowledged = rig.writers.acknowledged;
        await rig.moveOn();
        expect(rig.primary).toBe(otherSide(from));
        await rig.audit();
        await expect.poll(() => rig.writers.acknowledged, { timeout: 10_000 }).toBeGreaterThan(acknowledged + 10);
        // What a move makes, another one takes away: after two of them all is as it was.
        if (n % 2 === 0) {
          const now = { blue: await objectsOn(rig, 'blue'), green: await objectsOn(rig, 'green') };
          expect(now).toEqual((left ??= now));
        }
      }
      const seconds = (performance.now() - started) / 1_000;
      const outcome = `each right; ${rig.writers.acknowledged} writes, none failed`;
      recordOutcome({ fault: 'none', point: `${MOVES} moves in a row`, outcome, seconds });
      process.stdout.write(`${MOVES} moves in a row: ${outcome}, ${seconds.toFixed(0)} s\n`);
    },
  );
});

/** What the project keeps on a side beside its tables' rows. */
function objectsOn(rig: PromotionRig, side: 'blue' | 'green'): Promise<unknown> {
  return rig.on(side, async (client) => {
    const { rows } = await client.query(
      `SELECT (SELECT count(*)::int FROM pg_publication) AS publications,
              (SELECT count(*)::int FROM pg_subscription WHERE subdbid = d.oid) AS subscriptions,
              (SELECT count(*)::int FROM pg_replication_slots WHERE datoid = d.oid) AS slots,
              (SELECT count(*)::int FROM pg_trigger WHERE NOT tgisinternal) AS triggers,
              (SELECT count(*)::int FROM pg_class WHERE relnamespace = 'verdigris'::regnamespace) AS relations
         FROM pg_database d WHERE datname = current_database()`,
    );
    return rows[0] as unknown;
  });
}
