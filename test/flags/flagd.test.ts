import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FlagdCore } from '@openfeature/flagd-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeFlags, writeFlagsOrTell } from '../../src/flags/flagd-driver.js';
import { writeFlagdFile } from '../../src/flags/flagd-file.js';
import { flagdJson } from '../../src/flags/flagd-flags.js';
import { checkFlagdFile } from '../../src/flags/preflight.js';
import { planSchema } from '../../src/plan/schema.js';
import type { Route } from '../../src/postgres/state.js';
import { inCohort } from '../../src/router/cohort.js';
import { allOnBlue } from '../../src/router/routes.js';

const FLAG = 'use-green-db';
const USERS = Array.from({ length: 10_000 }, (_, n) => `user-${n}`);

function route(change: Partial<Route>): Route {
  return { ...allOnBlue('shop'), epoch: 1, generation: 1, ...change };
}

function evaluator(text: string): FlagdCore {
  const core = new FlagdCore();
  core.setConfigurations(text);
  return core;
}

function asks(core: FlagdCore, user?: string): boolean {
  return core.resolveBooleanEvaluation(FLAG, false, user === undefined ? {} : { targetingKey: user }).value;
}

describe('flagd, asked with our file,', () => {
  it.each([0, 0.001, 1, 10, 50, 99.999, 100])('chooses the users of the router at %s percent', (percent) => {
    const core = evaluator(flagdJson({ run: 'r', route: route({ greenReadPercent: percent }) }));
    const differing = USERS.filter((user) => asks(core, user) !== inCohort(FLAG, user, percent));
    expect(differing).toEqual([]);
  });

  it('keeps every user of a smaller stage', () => {
    const cohorts = [1, 10, 50, 100].map((percent) => {
      const core = evaluator(flagdJson({ run: 'r', route: route({ greenReadPercent: percent }) }));
      return USERS.filter((user) => asks(core, user));
    });
    for (const [n, cohort] of cohorts.entries()) {
      const larger = new Set(cohorts[n + 1] ?? USERS);
      expect(cohort.filter((user) => !larger.has(user))).toEqual([]);
    }
    expect(cohorts.map(({ length }) => length)).toEqual([
      expect.any(Number),
      expect.any(Number),
      expect.any(Number),
      10_000,
    ]);
  });

  it('sends nobody in particular to the side that has writes, and everybody there after the promotion', () => {
    const shifting = evaluator(flagdJson({ run: 'r', route: route({ greenReadPercent: 100 }) }));
    expect(asks(shifting)).toBe(false);
    const promoted = evaluator(flagdJson({ run: 'r', route: route({ writesOn: 'green', greenReadPercent: 100 }) }));
    expect([asks(promoted), asks(promoted, 'user-1')]).toEqual([true, true]);
  });

  it('tells from which migration, epoch and generation its answer is', () => {
    const core = evaluator(flagdJson({ run: 'r', route: route({ greenReadPercent: 10, epoch: 3, generation: 7 }) }));
    const { variant, flagMetadata } = core.resolveBooleanEvaluation(FLAG, false, { targetingKey: 'user-1' });
    expect(variant).toMatch(/^(blue|green)$/);
    expect(flagMetadata).toMatchObject({ migration: 'shop', epoch: 3, generation: 7 });
  });
});

describe("flagd's file", () => {
  let folder = '';
  let files = 0;
  const newPath = (): string => join(folder, `flags-${(files += 1)}.json`);

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'verdigris-flags-'));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const preflight = async (path: string): Promise<string[]> => {
    const plan = { name: 'shop', blue: { connection: 'b' }, green: { connection: 'g' }, traffic: { flagd: { path } } };
    return (await checkFlagdFile(planSchema.parse(plan))).map(({ check }) => check);
  };
  const metadataIn = async (path: string): Promise<unknown> => {
    const { metadata } = JSON.parse(await readFile(path, 'utf8')) as { metadata: unknown };
    return metadata;
  };

  it('is never seen half written', async () => {
    const path = newPath();
    await writeFlagdFile(path, { run: 'r', route: route({}) });
    let writes = true;
    let reads = 0;
    const reading = (async () => {
      while (writes) {
        // Throws for half a file, and for none.
        expect(await metadataIn(path)).toMatchObject({ migration: 'shop' });
        reads += 1;
      }
    })();
    for (let generation = 2; generation <= 150; generation += 1) {
      // Of changing length, so that a text written over another would be seen.
      await writeFlagdFile(path, { run: 'r', route: route({ generation, greenReadPercent: generation % 3 }) });
    }
    writes = false;
    await reading;
    expect(reads).toBeGreaterThan(10);
    expect((await readdir(folder)).filter((name) => name.includes('.verdigris-'))).toEqual([]);
  });

  it('is not taken back to an older route by a worker that wakes up late, only by a new run', async () => {
    const path = newPath();
    const write = (run: string, change: Partial<Route>): Promise<string> =>
      writeFlagdFile(path, { run, route: route(change) });
    expect(await write('r', { generation: 4 })).toBe('written');
    expect(await write('r', { generation: 3, greenReadPercent: 50 })).toBe('later one is there');
    expect(await write('r', { epoch: 2, generation: 2 })).toBe('written');
    expect(await write('r', { epoch: 1, generation: 9, greenReadPercent: 50 })).toBe('later one is there');
    expect(await metadataIn(path)).toMatchObject({ epoch: 2, greenReadPercent: 0 });
    expect(await write('later run', { epoch: 1, generation: 1 })).toBe('written');
  });

  it("is somebody else's as long as we have not written it: it is refused, and stays", async () => {
    const path = newPath();
    for (const theirs of [
      '{"flags":{"other":{}}}',
      '{"fla',
      flagdJson({ run: 'r', route: route({ migration: 'b' }) }),
    ]) {
      await writeFile(path, theirs);
      await expect(writeFlagdFile(path, { run: 'r', route: route({}) })).rejects.toMatchObject({
        type: 'FlagsNotWritten',
        retryable: false,
      });
      expect(await readFile(path, 'utf8')).toBe(theirs);
      expect(await preflight(path)).toEqual(['flagd-file']);
    }
    // What a crash of the machine may leave on some file systems.
    await writeFile(path, '');
    expect(await preflight(path)).toEqual([]);
    expect(await writeFlagdFile(path, { run: 'r', route: route({}) })).toBe('written');
    expect(await preflight(path)).toEqual([]);
    expect(await preflight(join(folder, 'missing', 'flags.json'))).toEqual(['flagd-file']);
  });

  it('is brought to the route that another worker has set while it was written', async () => {
    const path = newPath();
    const routes = [50, 50, 0].map((greenReadPercent, n) =>
      route({ greenReadPercent, generation: n === 0 ? 5 : 6 + n }),
    );
    const last = route({ greenReadPercent: 0, generation: 8 });
    await writeFlags(path, 'r', () => Promise.resolve(routes.shift() ?? last));
    expect(await metadataIn(path)).toMatchObject({ generation: 8, greenReadPercent: 0 });
  });

  it('that can not be written after reads were taken back is told within a moment', async () => {
    const missing = join(folder, 'missing');
    const path = join(missing, 'flags.json');
    const state = { run: 'r', route: route({ generation: 9 }) };
    await expect(writeFlagdFile(path, state)).rejects.toMatchObject({ type: 'FlagsNotWritten', retryable: true });
    expect(await writeFlagsOrTell(path, state)).toMatch(/flags\.json.*ENOENT/);
    await mkdir(missing);
    expect(await writeFlagsOrTell(path, state)).toBeNull();
    expect(await metadataIn(path)).toMatchObject({ generation: 9 });
  });
});
