import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { planSchema } from '../../src/plan/schema.js';
import { claimDatabases, dropState, releaseDatabase } from '../../src/postgres/ownership.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import { withSession, type Databases } from '../../src/postgres/session.js';
import { NO_OTHER_CLOCK, startOddServer } from '../support/odd-server.js';
import { asDatabase, testDatabase } from '../support/postgres.js';

if (NO_OTHER_CLOCK !== undefined) process.stdout.write(`clocks: ${NO_OTHER_CLOCK}\n`);

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
}, 60_000);

const migration = 'clocks-apart';

/** A run that is rolled back before it has moved anything. @returns the epoch that it began with */
async function rolledBack(databases: Databases, runId: string): Promise<number> {
  const run = { runId, migration };
  const epoch = await claimDatabases(databases, run, 'flag');
  for (const side of ['green', 'blue'] as const) {
    await withSession(databases[side], { purpose: 'test' }, async (session) => {
      await releaseDatabase(session, run, 'rolledBack');
      await dropState(session, run);
    });
  }
  return epoch;
}

describe.skipIf(NO_OTHER_CLOCK !== undefined)('a green whose clock was an hour ahead', () => {
  it('does not leave a later run of the name behind an epoch of before; the preflight warns of the clock', async () => {
    const server = await startOddServer({ version: 18, name: 'hour-ahead', clock: '+3600' });
    open.push(() => server.stop());
    const [blue, ahead, right] = [
      await testDatabase('pg15', 'clocks blue'),
      await testDatabase(server, 'clocks ahead'),
      await testDatabase('pg18', 'clocks right'),
    ];
    open.push(
      () => blue.drop(),
      () => right.drop(),
    );
    const databases = { blue: asDatabase(blue, 'blue'), green: asDatabase(ahead, 'green') };
    const mended = { ...databases, green: asDatabase(right, 'green') };

    const first = await rolledBack(databases, 'run-1');
    await sleep(1_100);
    expect(await rolledBack(mended, 'run-2')).toBeGreaterThan(first);

    const plan = planSchema.parse({ name: migration, blue: { connection: 'b' }, green: { connection: 'g' } });
    const warned = async (pair: Databases): Promise<unknown> =>
      (await preflight({ ...pair, plan, runId: 'run-3' })).findings.filter(({ check }) => check === 'clocks');
    expect(await warned(mended)).toEqual([]);
    expect(await warned(databases)).toMatchObject([
      {
        severity: 'warning',
        side: 'both',
        message: expect.stringMatching(/green's clock is 3\d{3} s ahead of/) as string,
      },
    ]);
  });
});
