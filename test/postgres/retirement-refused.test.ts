import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { retireActivities } from '../../activities/retire.js';
import { planSchema } from '../../src/plan/schema.js';
import { closeOvertaken } from '../../src/postgres/doctor/close.js';
import { whoIsPrimary } from '../../src/postgres/doctor/who-is-primary.js';
import { armFence, unarmedTablesSql } from '../../src/postgres/fence.js';
import { writeProgress } from '../../src/postgres/migrate/progress-row.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { withSession, type Databases, type Session } from '../../src/postgres/session.js';
import { FENCE_CLOSED, readOwner } from '../../src/postgres/state.js';
import type { Side } from '../../src/side.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';

const MIGRATION = 'retire-refused';
const TABLES = [{ schema: 'public', name: 'notes' }];

let own: Record<Side, TestDatabase>;
let databases: Databases;
let epoch: number;

beforeAll(async () => {
  own = { blue: await testDatabase('pg15', 'refused blue'), green: await testDatabase('pg18', 'refused green') };
  databases = { blue: asDatabase(own.blue, 'blue'), green: asDatabase(own.green, 'green') };
  epoch = await claimDatabases(databases, { runId: 'run', migration: MIGRATION }, 'flag');
  await on('green', async (green) => {
    await green.query(`CREATE TABLE public.notes (id int); SELECT setval('verdigris.fence', ${FENCE_CLOSED})`);
    await armFence(green, TABLES);
  });
});

afterAll(() => Promise.all([own.blue.drop(), own.green.drop()]));

function on<T>(side: Side, work: (session: Session) => Promise<T>): Promise<T> {
  return withSession(databases[side], { purpose: 'test' }, work);
}

async function says(side: Side, writesOn: Side, at: number): Promise<void> {
  await on(side, (session) => session.query('UPDATE verdigris.route SET writes_on = $1, epoch = $2', [writesOn, at]));
}

function retire(): Promise<unknown> {
  const environment = { VERDIGRIS_CONNECTION_B: own.blue.uri, VERDIGRIS_CONNECTION_G: own.green.uri };
  const plan = planSchema.parse({ name: MIGRATION, blue: { connection: 'b' }, green: { connection: 'g' } });
  const activities = retireActivities({ environment, redact: (text) => text });
  return new MockActivityEnvironment().run(() => activities.retire({ plan, runId: 'run' }, epoch + 1));
}

describe('a retirement', () => {
  it.each([
    ['blue is open', 'blue', 2],
    ['green alone has decided it', 'green', 1],
  ] as const)('is refused once writes are back on blue, and green stays fenced: %s', async (_, ofBlue, later) => {
    await says('blue', ofBlue, epoch + later);
    await says('green', 'blue', epoch + 2);
    await expect(retire()).rejects.toMatchObject({ type: 'WritesOnBlue', nonRetryable: true });
    await on('green', async (green) => {
      expect((await green.query(unarmedTablesSql(TABLES))).rows).toEqual([]);
      expect((await readOwner(green))?.outcome).toBeNull();
    });
    await expect(on('green', (green) => green.query('INSERT INTO public.notes VALUES (1)'))).rejects.toMatchObject({
      code: '25006',
    });
  });

  it('is refused where green lacks its opening, before anything is taken from blue: it would be open without its fence', async () => {
    await says('blue', 'green', epoch + 1);
    await says('green', 'blue', epoch);
    await expect(retire()).rejects.toMatchObject({
      ...{ type: 'NotOpened', nonRetryable: true },
      message: expect.stringMatching(/it is opened as it is by: verdigris doctor .* --open --yes$/) as string,
      details: [{ byHand: true, untouched: true }],
    });
    for (const side of ['blue', 'green'] as const) expect((await on(side, readOwner))?.outcome).toBeNull();
    expect((await on('green', (green) => green.query(unarmedTablesSql(TABLES)))).rows).toEqual([]);
    // Something was taken from blue before.
    const begun = { runId: 'run', step: 'retire', object: 'begun' };
    await on('blue', (blue) => writeProgress(blue, begun, {}, false));
    await expect(retire()).rejects.toMatchObject({ type: 'NotOpened', details: [{ byHand: true }] });
    await expect(retire()).rejects.not.toMatchObject({ details: [{ untouched: true }] });
  });

  it('goes on where green has them, also beside a blue that was restored: it is told that it takes writes, until it is closed', async () => {
    await says('blue', 'blue', epoch);
    await says('green', 'green', epoch + 1);
    expect(await retire()).toMatch(
      /^blue takes writes beside green: it knows nothing of what was decided .* --close --yes; /,
    );
    await on('green', async (green) => {
      expect((await green.query(unarmedTablesSql(TABLES))).rows).toHaveLength(1);
      expect((await readOwner(green))?.outcome).toBe('completed');
    });
    const { verdict } = await whoIsPrimary(databases);
    if (verdict.kind !== 'both') throw new Error(`it is ${verdict.kind}`);
    await closeOvertaken(databases, MIGRATION, verdict, undefined);
    expect(await retire()).toBeNull();
  });

  it('goes on beside a blue that has no state of the run any more, and says that it takes writes', async () => {
    await on('green', (green) => green.query('UPDATE verdigris.owner SET outcome = NULL'));
    await on('blue', (blue) => blue.query('DROP SCHEMA verdigris CASCADE'));
    expect(await retire()).toMatch(/^blue takes writes beside green: schema verdigris is gone there/);
    expect((await on('green', readOwner))?.outcome).toBe('completed');
  });
});
