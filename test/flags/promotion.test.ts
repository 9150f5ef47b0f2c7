import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { FlagsOwed } from '../../activities/flags.js';
import { promoteActivities } from '../../activities/promote.js';
import { writeFlagdFile } from '../../src/flags/flagd-file.js';
import { planSchema } from '../../src/plan/schema.js';
import { MIGRATION, Sides } from '../router/sides.js';
import { StatementProxy } from '../support/statement-proxy.js';

let sides: Sides;
let green: StatementProxy;
let folder = '';
let path = '';

beforeAll(async () => {
  sides = await (await Sides.create('flag_promotion')).claim();
  green = await StatementProxy.start(sides.green.port);
  folder = await mkdtemp(join(tmpdir(), 'verdigris-flags-'));
  path = join(folder, 'flags.json');
}, 60_000);
afterAll(async () => {
  await green.close();
  await rm(folder, { recursive: true, force: true });
  await sides.drop();
});

function finish(): Promise<FlagsOwed | null> {
  const uri = new URL(sides.green.uri);
  uri.host = `127.0.0.1:${green.port}`;
  const { finishPromotion } = promoteActivities({
    environment: { VERDIGRIS_CONNECTION_B: sides.blue.uri, VERDIGRIS_CONNECTION_G: uri.href },
    redact: (text) => text,
  });
  const plan = planSchema.parse({
    ...{ name: MIGRATION, blue: { connection: 'b' }, green: { connection: 'g' } },
    traffic: { gates: [{ metric: 'lag', max: '1s' }], flagd: { path } },
  });
  return new MockActivityEnvironment().run(() => finishPromotion({ plan, runId: 'r' }, 'blue'));
}

it("the end of a promotion is tried again where green ends the session for flagd's file", async () => {
  const route = { migration: MIGRATION, epoch: 1, generation: 1, writesOn: 'blue', greenReadPercent: 50 } as const;
  await writeFlagdFile(path, { run: 'r', route: { ...route, flag: 'use-green-db', opening: null } });
  await sides.decide('green');
  await sides.open('green');

  const comes = green.stopWhere(({ session, text }) => session === 'verdigris flags' && text !== 'connect', 'before');
  const first = finish().catch((error: unknown) => error);
  const session = await comes;
  const end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'verdigris flags'";
  expect(await sides.sql('green', end)).toHaveLength(1);
  session.release();
  expect(await first).toMatchObject({ type: 'ConnectionFailed', nonRetryable: false });

  expect(await finish()).toBeNull();
  expect(JSON.parse(await readFile(path, 'utf8'))).toMatchObject({
    flags: { 'use-green-db': { defaultVariant: 'green' } },
  });
});
