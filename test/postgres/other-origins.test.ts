import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { planSchema } from '../../src/plan/schema.js';
import type { PreflightFinding } from '../../src/postgres/preflight/finding.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

const PLAN = planSchema.parse({ name: 'origins', blue: { connection: 'b' }, green: { connection: 'g' } });
/** Origins are of the whole server, which several test files share. */
const APPLIER = `applier_${randomBytes(4).toString('hex')}`;

describe('a session of somebody else that writes by a replication origin', () => {
  let [old, blue, green]: TestDatabase[] = [];

  const find = async (from: TestDatabase | undefined): Promise<PreflightFinding[]> => {
    if (from === undefined || green === undefined) throw new Error('no database');
    const databases = { blue: asDatabase(from, 'blue'), green: asDatabase(green, 'green') };
    const { findings } = await preflight({ ...databases, plan: PLAN, runId: 'run-1', reachWithinMs: 1_000 });
    return findings.filter(({ check }) => ['other-origins', 'check-failed'].includes(check));
  };
  const onGreen = async (sql: string): Promise<void> => {
    if (green !== undefined) await withClient(green.config, (client) => client.query(sql));
  };

  beforeAll(async () => {
    [old, blue, green] = [
      await testDatabase('pg15', 'origins old'),
      await testDatabase('pg18', 'origins blue'),
      await testDatabase('pg18', 'origins green'),
    ];
    // It has an origin, too.
    await onGreen("CREATE SUBSCRIPTION origins_of_ours CONNECTION '' PUBLICATION p WITH (connect = false)");
  });
  afterAll(async () => {
    await onGreen('ALTER SUBSCRIPTION origins_of_ours SET (slot_name = NONE)');
    await onGreen('DROP SUBSCRIPTION origins_of_ours');
    for (const database of [old, blue, green]) await database?.drop();
  });

  it('is warned of where the feeds would leave out what it writes, and nowhere else', async () => {
    expect(await find(blue)).toEqual([]);
    await onGreen(`SELECT pg_replication_origin_create('${APPLIER}')`);
    try {
      // Both are databases of one server.
      expect(await find(blue)).toMatchObject([
        { severity: 'warning', side: 'blue', object: APPLIER },
        { severity: 'warning', side: 'green', object: APPLIER },
      ]);
      expect(await find(old)).toEqual([]);
    } finally {
      await onGreen(`SELECT pg_replication_origin_drop('${APPLIER}')`);
    }
  });
});
