import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { inCohort } from '../../src/router/cohort.js';
import { MIGRATION, Sides, until } from '../router/sides.js';

/* What docs/flags.md has an application write, as a process of its own. */

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const TSX = pathToFileURL(join(ROOT, 'node_modules/tsx/dist/loader.mjs')).href;
const FLAG = 'use-green-db';
const USERS = Array.from({ length: 50 }, (_, n) => `user-${n}`);

let sides: Sides;
let folder: string;
let child: ChildProcessWithoutNullStreams;
let errors = '';

beforeAll(async () => {
  sides = await (await Sides.create('documented-flag')).claim();
  folder = await mkdtemp(join(tmpdir(), 'documented-flag-'));
});
afterAll(async () => {
  child.kill('SIGKILL');
  await rm(folder, { recursive: true, force: true });
  await sides.drop();
});

/** The packages that the page installs, as they are here. */
async function install(): Promise<void> {
  const packages = join(folder, 'node_modules');
  await mkdir(join(packages, 'verdigris'), { recursive: true });
  await mkdir(join(packages, '@openfeature'));
  const sdk = '@openfeature/server-sdk';
  await symlink(join(ROOT, 'node_modules', sdk), join(packages, sdk));
  await symlink(join(ROOT, 'src'), join(packages, 'verdigris/src'));
  const exported = { name: 'verdigris', type: 'module', exports: { './openfeature': './src/openfeature/index.ts' } };
  await writeFile(join(packages, 'verdigris/package.json'), JSON.stringify(exported));
}

/** The page's provider and its one line, in a process that is told a user a line and tells the side. */
async function application(): Promise<string> {
  const page = await readFile(join(ROOT, 'docs/flags.md'), 'utf8');
  const [line, setup] = [...page.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code = '']) => code);
  if (line === undefined || setup === undefined) throw new Error('docs/flags.md has no code');
  expect(line).toMatch(/^if \(.*\) …\n$/);
  expect(setup).toContain("'orders-2026-11'");
  return `
    import { createInterface } from 'node:readline';
    ${setup.replace("'orders-2026-11'", `'${MIGRATION}'`)}
    async function sideOf(userId) {
      ${line.replace('…', "return 'green';")}
      return 'blue';
    }
    for await (const userId of createInterface({ input: process.stdin })) console.log(await sideOf(userId));
    await OpenFeature.close();`;
}

describe("the page's one line", () => {
  it("sends the router's users to green, everybody after the promotion, and lets the process end", async () => {
    await install();
    await writeFile(join(folder, 'package.json'), '{"type":"module"}');
    await writeFile(join(folder, 'main.ts'), await application());
    const env = { ...process.env, BLUE_URL: sides.blue.uri, GREEN_URL: sides.green.uri };
    child = spawn(process.execPath, ['--import', TSX, 'main.ts'], { cwd: folder, env, stdio: 'pipe' });
    child.stderr.on('data', (data: Buffer) => (errors += data.toString()));
    const exit = once(child, 'exit');
    const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const onGreen = async (): Promise<string[]> => {
      child.stdin.write(USERS.map((user) => `${user}\n`).join(''));
      const green: string[] = [];
      for (const user of USERS) {
        const { value, done } = await answers.next();
        if (done === true) throw new Error(`the application has ended: ${errors}`);
        if (value === 'green') green.push(user);
      }
      return green;
    };

    expect(await onGreen()).toEqual([]);
    await sides.stage(30);
    const cohort = USERS.filter((user) => inCohort(FLAG, user, 30));
    expect(cohort.length).toBeGreaterThan(0);
    await until(async () => (await onGreen()).length === cohort.length);
    expect(await onGreen()).toEqual(cohort);
    await sides.decide('green');
    await sides.open('green');
    await until(async () => (await onGreen()).length === USERS.length);
    child.stdin.end();
    expect(await exit).toEqual([0, null]);
    expect(errors).toBe('');
  });
});
