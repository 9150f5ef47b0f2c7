import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { planSchema } from '../../src/plan/schema.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import type { Database, Databases } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

const RUN = { runId: 'run of orders', migration: 'orders' };
const REHEARSAL = { runId: 'run of rehearsal', migration: 'rehearsal' };

describe('a copy of a database that a run moves', () => {
  let own: TestDatabase[];
  let databases: Databases;
  let copy: Database;

  beforeAll(async () => {
    own = [await testDatabase('pg15', 'moved blue'), await testDatabase('pg18', 'moved green')];
    const [blue, green] = own as [TestDatabase, TestDatabase];
    databases = { blue: asDatabase(blue, 'blue'), green: asDatabase(green, 'green') };
    await claimDatabases(databases, RUN, 'use-green-db');
    const name = `${blue.database}_copy`;
    await withClient({ ...blue.config, database: 'postgres' }, (client) =>
      client.query(`CREATE DATABASE "${name}" TEMPLATE "${blue.database}"`),
    );
    const uri = blue.uri.replace(blue.database, name);
    const drop = (): Promise<void> =>
      withClient({ ...blue.config, database: 'postgres' }, async (client) => {
        await client.query(`DROP DATABASE "${name}" WITH (FORCE)`);
      });
    const restored = { ...blue, database: name, uri, config: { ...blue.config, database: name }, drop };
    own.push(restored);
    copy = asDatabase(restored, 'blue');
  });

  afterAll(async () => {
    for (const database of own) await database.drop();
  });

  it('is told as one to whoever claims it: nobody is to roll that run back', async () => {
    const spare = await testDatabase('pg18', 'spare green');
    own.push(spare);
    const rehearsed = { blue: copy, green: asDatabase(spare, 'green') };
    const refused: unknown = await claimDatabases(rehearsed, REHEARSAL, 'use-green-db').catch(
      (error: unknown) => error,
    );
    expect(refused).toMatchObject({
      type: 'DatabaseOwned',
      message: expect.stringMatching(
        /^blue is a copy of a database that another run moves: migration "orders".*leave that run alone.*subscriptions/s,
      ) as string,
    });
    expect(String(refused)).not.toMatch(/roll it back|doctor/);

    const plan = planSchema.parse({ name: 'rehearsal', blue: { connection: 'b' }, green: { connection: 'g' } });
    const { findings } = await preflight({ ...rehearsed, plan, runId: REHEARSAL.runId, reachWithinMs: 2_000 });
    expect(findings.filter(({ check }) => check === 'owned-by-another-run')).toMatchObject([
      { side: 'blue', remedy: expect.stringMatching(/^Leave that run alone/) as string },
    ]);
  });

  it('is not what the database itself is told as: there the run ends first', async () => {
    await expect(claimDatabases(databases, REHEARSAL, 'use-green-db')).rejects.toMatchObject({
      type: 'DatabaseOwned',
      message: expect.stringMatching(
        /^blue belongs to another run: migration "orders".*let that run end or roll it back.*If this is a copy/s,
      ) as string,
    });
  });
});
