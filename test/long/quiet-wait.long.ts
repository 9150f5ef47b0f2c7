import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { windowsActivities } from '../../activities/windows.js';
import { planSchema } from '../../src/plan/schema.js';
import { testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

let blue: TestDatabase;
let green: TestDatabase;

beforeAll(async () => {
  blue = await testDatabase('pg15', 'quiet blue');
  green = await testDatabase('pg18', 'quiet green');
});

afterAll(() => Promise.all([blue.drop(), green.drop()]));

it('a wait for few transactions does not take statistics that were reset for quiet', async () => {
  const plan = planSchema.parse({ name: 'quiet', blue: { connection: 'b' }, green: { connection: 'g' } });
  const environment = { VERDIGRIS_CONNECTION_B: blue.uri, VERDIGRIS_CONNECTION_G: green.uri };
  const { awaitQuiet } = windowsActivities({ environment, redact: String });
  let isBusy = true;
  let isQuiet = false;
  await withClient(blue.config, async (client) => {
    const load = (async (): Promise<void> => {
      while (isBusy) await client.query('SELECT 1');
    })();
    await sleep(1_500);
    const until = new Date(Date.now() + 120_000).toISOString();
    const waiting = new MockActivityEnvironment({ workflowExecution: undefined })
      .run(() => awaitQuiet({ plan, runId: 'r' }, until, 50))
      .finally(() => (isQuiet = true));
    await sleep(6_500);
    expect(isQuiet).toBe(false);
    await withClient(blue.config, (admin) => admin.query('SELECT pg_stat_reset()'));
    await sleep(7_500);
    expect(isQuiet).toBe(false);
    isBusy = false;
    await load;
    expect(await waiting).toMatchObject({ quiet: true });
  });
});
