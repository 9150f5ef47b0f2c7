import { mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { flagsActivities, type FlagsOwed } from '../../activities/flags.js';
import { trafficActivities, type ReadsOwed } from '../../activities/traffic.js';
import { planSchema, type Plan, type PlanInput } from '../../src/plan/schema.js';
import type { Side } from '../../src/side.js';
import { MIGRATION, Sides, until } from '../router/sides.js';

let sides: Sides;
let folder = '';
let path = '';

beforeAll(async () => {
  sides = await (await Sides.create('flag_stage')).claim();
  folder = await mkdtemp(join(tmpdir(), 'verdigris-flags-'));
  path = join(folder, 'flags.json');
}, 60_000);
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
  await sides.drop();
});

function planWith(traffic: PlanInput['traffic']): Plan {
  return planSchema.parse({
    ...{ name: MIGRATION, blue: { connection: 'b' }, green: { connection: 'g' } },
    traffic: { gates: [{ metric: 'lag', max: '1s' }], ...traffic },
  });
}

type Activities = ReturnType<typeof trafficActivities> & ReturnType<typeof flagsActivities>;

function act<T>(
  plan: Plan,
  what: (activities: Activities, ref: { plan: Plan; runId: string }) => Promise<T>,
): Promise<T> {
  const dependencies = {
    environment: { VERDIGRIS_CONNECTION_B: sides.blue.uri, VERDIGRIS_CONNECTION_G: sides.green.uri },
    redact: (text: string) => text,
  };
  const activities = { ...trafficActivities(dependencies), ...flagsActivities(dependencies) };
  return new MockActivityEnvironment().run(() => what(activities, { plan, runId: 'r' }));
}

const openStage = (plan: Plan, percent: number): Promise<{ routers: number }> =>
  act(plan, (activities, ref) => activities.openStage(ref, { percent, for: '1s' }));
const readsToBlue = (plan: Plan): Promise<ReadsOwed | null> =>
  act(plan, (activities, ref) => activities.readsToBlue(ref));

const flagsOf = (owed: ReadsOwed | null): FlagsOwed | null =>
  owed?.why === undefined ? null : { route: owed.route, why: owed.why };

const percentIn = async (file: string): Promise<unknown> => {
  const { metadata } = JSON.parse(await readFile(file, 'utf8')) as { metadata: { greenReadPercent: unknown } };
  return metadata.greenReadPercent;
};

const percentOn = async (side: Side): Promise<number | undefined> => {
  const rows = await sides.sql<{ p: number }>(side, 'SELECT green_read_percent::float8 AS p FROM verdigris.route');
  return rows[0]?.p;
};

describe('a stage', () => {
  it("is in flagd's file when it is open; taking the reads back needs no file, which follows when it can", async () => {
    const plan = planWith({ flagd: { path } });
    await openStage(plan, 10);
    expect(await percentIn(path)).toBe(10);

    // No folder to write in, for root either: a file stands in its place.
    await rename(folder, `${folder}-away`);
    await writeFile(folder, '');
    let owed: FlagsOwed | null;
    const write = ({ route }: FlagsOwed): Promise<void> =>
      act(plan, (activities, ref) => activities.writeOwedFlags(ref, route));
    try {
      await expect(openStage(plan, 50)).rejects.toMatchObject({ type: 'FlagsNotWritten' });
      // Nothing had moved when it was seen that the file can't be written.
      expect(await percentOn('blue')).toBe(10);
      owed = flagsOf(await readsToBlue(plan));
      expect(await percentOn('blue')).toBe(0);
      expect(owed).toMatchObject({
        route: { greenReadPercent: 0 },
        why: expect.stringMatching(/flags\.json.*ENOTDIR/),
      });
      if (owed === null) throw new Error('the file is not written');
      await expect(write(owed)).rejects.toMatchObject({ type: 'FlagsNotWritten', nonRetryable: false });
    } finally {
      await rm(folder);
      await rename(`${folder}-away`, folder);
    }
    expect(await percentIn(path)).toBe(10);
    await write(owed);
    expect(await percentIn(path)).toBe(0);
    // What is owed from before leaves a later stage alone.
    await openStage(plan, 25);
    await write(owed);
    expect(await percentIn(path)).toBe(25);
    expect(await readsToBlue(plan)).toBeNull();
  });

  it('is not opened before the code for both schemas is deployed, and waits for every live instance', async () => {
    const plan = planWith({ instances: { minVersion: '2.0', atLeast: 2 } });
    await sides.router({ instance: 'a', version: '2.0' });
    await sides.router({ instance: 'b', version: '1.9' });
    const versions = (): Promise<{ version: string }[]> => sides.sql('blue', 'SELECT version FROM verdigris.router');
    await until(async () => (await versions()).length === 2);
    await expect(openStage(plan, 10)).rejects.toMatchObject({
      type: 'GateFailed',
      message: expect.stringMatching(/not at version 2\.0: b-[0-9a-f]{6} \(version 1\.9, role postgres\)/) as string,
      nonRetryable: false,
    });
    expect(await percentOn('blue')).toBe(0);

    await sides.reset();
    await sides.router({ instance: 'a', version: '2.0' });
    await sides.router({ instance: 'c', version: '2.0.1' });
    await until(async () => (await versions()).length === 2);
    expect(await openStage(plan, 10)).toEqual({ routers: 2 });
    await readsToBlue(plan);
  });
});
