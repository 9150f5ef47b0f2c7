import { VerdigrisError } from '../../errors.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { otherSide, type Side } from '../../side.js';
import { ALL_TABLES } from '../catalog-pattern.js';
import { readFencedTables } from '../fenced-tables.js';
import { armFence, FENCE_TRIGGER, readArmedBefore, TRUNCATE_TRIGGER } from '../fence.js';
import { inTransaction, withSession, type Databases, type Session } from '../session.js';
import { readRoute, ROUTE_CHANNEL } from '../state.js';
import { CLEANED } from './clean.js';
import { DOCTOR, type Patterns } from './inventory.js';
import { RELEASED } from './read-state.js';
import type { Verdict } from './who-is-primary.js';

/**
 * Closes the side that has been overtaken where both take writes: a green that was given up and has come back, a blue
 * whose fence was switched off. Its route row is brought to the truth, its flag closed, then its tables armed. Safe beside
 * a worker, and to run again.
 *
 * @param patterns what the plan moves; undefined without a plan: what the run has fenced
 * @throws VerdigrisError StaleEpoch when the route has moved on meanwhile; PromotionBlocked when a table can't be armed.
 */
export async function closeOvertaken(
  databases: Databases,
  migration: string,
  { truth, epoch }: Extract<Verdict, { kind: 'both' }>,
  patterns: Patterns | undefined,
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
    // Closed again, it is released no more: a fence that is switched off later is not one that was to go.
    await session.query('UPDATE verdigris.owner SET outcome = $1 WHERE outcome = $2', [CLEANED, RELEASED]);
    await session.query('SELECT verdigris.close_fence($1, $2)', [migration, epoch]);
    const tables = await readTablesToArm(session, patterns);
    await armFence(session, tables, { guard: { migration, epoch, writesOn: truth } });
  });
}

/** The tables that closeOvertaken() arms on that side, for people. */
export function tablesToArm(databases: Databases, side: Side, patterns: Patterns | undefined): Promise<string[]> {
  return withSession(databases[side], { purpose: `${DOCTOR} close` }, async (session) =>
    (await readTablesToArm(session, patterns)).map(formatTableName),
  );
}

/**
 * Without a plan nobody knows which tables it leaves out, and an application that still writes those, rightly, must not be
 * stopped. So only what was armed last, or has a trigger of the fence; where there is no such thing, all.
 */
async function readTablesToArm(session: Session, patterns: Patterns | undefined): Promise<TableName[]> {
  if (patterns !== undefined) return readFencedTables(session, patterns);
  const { rows } = await session.query<{ schema: string; name: string }>(
    `SELECT DISTINCT n.nspname AS schema, c.relname AS name
       FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE t.tgname IN ('${FENCE_TRIGGER}', '${TRUNCATE_TRIGGER}') AND NOT t.tgisinternal`,
  );
  const known = new Map([...(await readArmedBefore(session)), ...rows].map((table) => [formatTableName(table), table]));
  return known.size === 0 ? readFencedTables(session, ALL_TABLES) : [...known.values()];
}
