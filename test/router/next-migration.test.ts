import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { refuseOtherFollowers } from '../../activities/instances.js';
import { planSchema, type Plan, type PlanInput } from '../../src/plan/schema.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import { withSession } from '../../src/postgres/session.js';
import { asDatabase } from '../support/postgres.js';
import { Sides, until } from './sides.js';

/** The green of a first migration, which is the blue of a next one. */
let sides: Sides;

beforeAll(async () => {
  sides = await (await Sides.create('next migration')).claim();
});

beforeEach(() => sides.reset());

afterAll(() => sides.drop());

function planOf(plan: Partial<PlanInput> = {}): Plan {
  return planSchema.parse({
    ...{ version: 1, name: 'shop-2', blue: { connection: 'b' }, green: { connection: 'g' } },
    ...plan,
  });
}

async function warned(plan: Plan): Promise<string[]> {
  const [blue, green] = [asDatabase(sides.green, 'blue'), asDatabase(sides.blue, 'green')];
  const { findings } = await preflight({ blue, green, plan, runId: 'next', reachWithinMs: 1_000 });
  return findings.filter(({ check }) => check === 'other-routers').map((one) => `${one.severity} ${one.message}`);
}

/** What keeps its promotion from being tried. */
async function refusal(plan: Plan): Promise<string | undefined> {
  return withSession(asDatabase(sides.green, 'blue'), { purpose: 'test' }, (blue) =>
    refuseOtherFollowers(blue, plan).then(
      () => undefined,
      (error: unknown) => String(error),
    ),
  );
}

test('whoever still follows the migration before is named, and no promotion takes its writes away', async () => {
  expect(await warned(planOf())).toEqual([]);
  const router = await sides.router({ instance: 'web', heartbeatIntervalMs: 100 });
  await sides.decide('green');
  await sides.open('green');
  const known = 'SELECT FROM verdigris.router';
  await until(async () => (await sides.sql('green', known)).length === 1);
  const name = `${router.instance} (shop, role postgres)`;
  expect(await warned(planOf())).toEqual([expect.stringContaining(`and would not follow "shop-2": ${name};`)]);
  expect((await warned(planOf()))[0]).toMatch(/^warning/);
  // It may only read, or be of no use any more.
  expect(await refusal(planOf())).toBeUndefined();

  expect((await router.write('u', 'INSERT INTO item VALUES (1)')).side).toBe('green');
  await until(async () => (await refusal(planOf())) !== undefined);
  expect(await refusal(planOf())).toContain(`follow an earlier migration of it: ${name}`);
  expect(await refusal(planOf({ tables: { include: ['public.*'], exclude: [] } }))).toContain(name);
  expect(await refusal(planOf({ tables: { include: ['*.*'], exclude: ['public.item'] } }))).toBeUndefined();
  // For its own migration it is no stranger.
  expect(await refusal(planOf({ name: 'shop' }))).toBeUndefined();

  await router.close();
  expect(await refusal(planOf())).toBeUndefined();
  expect(await warned(planOf())).toEqual([]);
});
