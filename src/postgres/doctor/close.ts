import { VerdigrisError } from '../../errors.js';
import { otherSide } from '../../side.js';
import { readFencedTables } from '../fenced-tables.js';
import { armFence } from '../fence.js';
import { inTransaction, withSession, type Databases } from '../session.js';
import { readRoute, ROUTE_CHANNEL } from '../state.js';
import { DOCTOR, type Patterns } from './inventory.js';
import type { Verdict } from './who-is-primary.js';

/**
 * Closes the side that has been overtaken where both take writes: a green that was given up and has come back, a blue
 * whose fence was switched off. Its route row is brought to the truth, its flag closed, then every table armed. Safe beside
 * a worker, and to run again.
 *
 * @throws VerdigrisError StaleEpoch when the route has moved on meanwhile; PromotionBlocked when a table can't be armed.
 */
export async function closeOvertaken(
  databases: Databases,
  migration: string,
  { truth, epoch }: Extract<Verdict, { kind: 'both' }>,
  patterns: Patterns,
): Promise<void> {
  const side = otherSide(truth);
  await withSession(databases[side], { purpose: `${DOCTOR} close` }, async (session) => {
    await inTransaction(session, async () => {
      const route = await readRoute(session, migration, true);
      if (route === undefined || route.epoch > epoch || (route.epoch === epoch && route.writesOn !== truth)) {
        throw new VerdigrisError({
          type: 'StaleEpoch',
          message: `the route of ${side} is not behind epoch ${epoch} any more: it is left as it is`,
          nextStep: 'see verdigris doctor --who-is-primary',
        });
      }
      if (route.epoch === epoch) return;
      await session.query(
        `UPDATE verdigris.route SET writes_on = $2, epoch = $3, generation = generation + 1, green_read_percent = $4,
                opening = NULL, updated_at = clock_timestamp() WHERE migration = $1`,
        [migration, truth, epoch, truth === 'green' ? 100 : 0],
      );
      await session.query(`SELECT pg_notify('${ROUTE_CHANNEL}', '')`);
    });
    await session.query('SELECT verdigris.close_fence($1, $2)', [migration, epoch]);
    const tables = await readFencedTables(session, patterns);
    await armFence(session, tables, { guard: { migration, epoch, writesOn: truth } });
  });
}
