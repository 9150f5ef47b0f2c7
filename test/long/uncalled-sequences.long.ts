import { afterAll, beforeAll, expect, it } from 'vitest';
import { preparePromotion } from '../../src/postgres/prepare-promotion.js';
import { promote } from '../../src/postgres/promote.js';
import { otherSide, type Side } from '../../src/side.js';
import { LinkProxy } from '../support/link-proxy.js';
import { PromotionRig } from '../support/promotion-rig.js';
import { carryOut } from '../support/promotion-steps.js';

/* Thousands of tables that nothing was written to yet: a template for tenants. Their sequences are read while writers wait. */

const SEQUENCES = 3_000;
/** A hundred round trips one after the other take 0.8 s, beside what both servers do. */
const ONE_WAY_MS = 4;

const SCHEMA = `DO $$
  BEGIN
    FOR n IN 1..${SEQUENCES} LOOP
      EXECUTE format('CREATE SEQUENCE public.s%s', n);
      -- One transaction for all of them would need more locks than a server has by default.
      IF n % 100 = 0 THEN COMMIT; END IF;
    END LOOP;
  END $$`;

/** What is done right before the hold, and the least that the new side gives out then. Each time to others. */
const changes = (n: number): readonly (readonly [string, string, number])[] => [
  [`s${n}`, `SELECT nextval('public.s${n}')`, 1_001],
  [`s${n + 100}`, `SELECT setval('public.s${n + 100}', 7000)`, 8_001],
  [`s${n + 200}`, `SELECT setval('public.s${n + 200}', 7000, false)`, 8_000],
  [`s${n + 300}`, `ALTER SEQUENCE public.s${n + 300} RESTART WITH 9000`, 10_000],
];

let rig: PromotionRig;

beforeAll(async () => {
  rig = await PromotionRig.create('uncalled sequences');
  await rig.writers.pause();
  for (const side of ['blue', 'green'] as const) await rig.on(side, (client) => client.query(SCHEMA));
});

afterAll(() => rig.audit().finally(() => rig.close()));

async function next(side: Side, name: string): Promise<number> {
  return rig.on(side, async (client) => {
    const { rows } = await client.query<{ n: number }>(`SELECT nextval('public.${name}')::int AS n`);
    return rows[0]?.n ?? 0;
  });
}

it('thousands of sequences that have given no value yet keep writers no longer, there and back, and one that moves right before the hold is carried over', async () => {
  const took: number[] = [];
  for (const n of [1, 2, 3, 4]) {
    const from = rig.primary;
    const { migration, tables } = rig.move(from);
    const wayBack = tables.map((table) => ({ table }));
    const move = { databases: rig.databases, migration, from, fenced: tables };
    const knownTables = await preparePromotion({ ...move, wayBack });
    const old = rig.databases[from];
    const link = await LinkProxy.start(Number(old.config.port));
    link.delay(ONE_WAY_MS);
    const far = { ...rig.databases, [from]: { ...old, config: { ...old.config, port: link.port } } };
    const lastLook = async (): Promise<void> => {
      for (const [, sql] of changes(n)) await rig.on(from, (client) => client.query(sql));
    };
    const { steps } = await promote(
      { ...move, databases: far, knownTables, maxHoldMs: 5_000, sequenceGap: 1_000, feedBack: true, lastLook },
      { attempts: 8 },
    );
    took.push(steps['catalog, marker, sequences'] ?? Infinity);
    await link.close();
    rig.primary = otherSide(from);
    for (const [name, , least] of changes(n)) expect(await next(rig.primary, name)).toBeGreaterThanOrEqual(least);
    await carryOut('finish', rig.move(from));
  }
  process.stdout.write(`catalog, marker, sequences: ${took.map((ms) => ms.toFixed(0)).join(', ')} ms\n`);
  expect(Math.min(...took)).toBeLessThan(1_000);
});
