import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { MIGRATION, pause, Sides, until } from './sides.js';
import { TcpProxy } from './tcp-proxy.js';

/* The example of docs/router.md as a process of its own, which nothing may end but the signal. */

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const EXAMPLE = join(ROOT, 'examples/router-fastify-kysely');
const TSX = pathToFileURL(join(ROOT, 'node_modules/tsx/dist/loader.mjs')).href;

let sides: Sides;
let blueProxy: TcpProxy;
let greenProxy: TcpProxy;
const services: Service[] = [];

beforeAll(async () => {
  sides = await (await Sides.create('example')).claim();
  blueProxy = new TcpProxy(sides.blue.port);
  greenProxy = new TcpProxy(sides.green.port);
  await Promise.all([blueProxy.listen(), greenProxy.listen()]);
});

afterEach(() => {
  for (const { child } of services.splice(0)) child.kill('SIGKILL');
});

afterAll(async () => {
  await Promise.all([blueProxy.down(), greenProxy.down()]);
  await sides.drop();
});

interface Service {
  readonly child: ChildProcess;
  readonly address: string;
  readonly output: () => string;
}

function through(proxy: TcpProxy, uri: string): string {
  const url = new URL(uri);
  url.port = String(proxy.port);
  return url.href;
}

/** What the example is told. */
function settings(): Readonly<Record<string, string>> {
  return {
    MIGRATION,
    BLUE_URL: through(blueProxy, sides.blue.uri),
    GREEN_URL: through(greenProxy, sides.green.uri),
    TOKEN_SECRET: 'a secret of the test, long enough',
  };
}

async function serve(folder = EXAMPLE, told = settings()): Promise<Service> {
  const child = spawn(process.execPath, ['--import', TSX, join(folder, 'main.ts')], {
    cwd: folder === EXAMPLE ? ROOT : folder,
    env: { ...process.env, ...told, PORT: '0' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data: Buffer) => (output += data.toString()));
  const address = (): string | undefined => /listening on (\S+)/.exec(output)?.[1];
  await until(() => {
    if (child.exitCode !== null) throw new Error(output);
    return address() !== undefined;
  }, 30_000);
  const service = { child, address: address() ?? '', output: () => output };
  services.push(service);
  return service;
}

interface Answer {
  readonly status: number;
  readonly body: { value?: number; error?: string };
  readonly token: string | undefined;
}

async function request({ address }: Service, method: string, path: string, token?: string): Promise<Answer> {
  const headers = { 'x-user': 'ada', ...(token !== undefined && { 'x-write-token': token }) };
  const response = await fetch(`${address}${path}`, { method, headers });
  const body = (await response.json()) as Answer['body'];
  return { status: response.status, body, token: response.headers.get('x-write-token') ?? undefined };
}

/** The packages that its README installs, as they are here. */
async function install(folder: string): Promise<void> {
  const packages = join(folder, 'node_modules');
  await mkdir(join(packages, 'verdigris'), { recursive: true });
  for (const name of ['fastify', 'kysely']) await symlink(join(ROOT, 'node_modules', name), join(packages, name));
  await symlink(join(ROOT, 'src'), join(packages, 'verdigris/src'));
  const exported = { name: 'verdigris', type: 'module', exports: { './router': './src/router/index.ts' } };
  await writeFile(join(packages, 'verdigris/package.json'), JSON.stringify(exported));
}

describe('the example with Fastify and Kysely', () => {
  test('runs in a copy of its folder by the commands of its README, and follows the migration that they name', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'example-'));
    try {
      await cp(EXAMPLE, folder, { recursive: true });
      const readme = await readFile(join(folder, 'README.md'), 'utf8');
      const commands = (/```sh\n([\s\S]*?)```/.exec(readme)?.[1] ?? '').split('\n');
      const run = commands.find((line) => line.endsWith('npx tsx main.ts')) ?? '';
      for (const line of commands.slice(
        0,
        commands.findIndex((line) => line.startsWith('npm install')),
      )) {
        await promisify(execFile)('sh', ['-c', line], { cwd: folder });
      }
      await install(folder);
      const named = [...run.matchAll(/\b([A-Z_]+)=/g)].map(([, name = '']) => name);
      const told = settings();
      const service = await serve(folder, Object.fromEntries(named.map((name) => [name, told[name] ?? ''])));
      expect((await request(service, 'POST', '/items/7/bump')).body).toEqual({ id: 7, value: 1 });
      const known = 'SELECT count(*)::int AS n FROM verdigris.router';
      await until(async () => (await sides.sql<{ n: number }>('blue', known))[0]?.n === 1, 10_000);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test('starts with both sides down, serves when blue is there, outlives the loss of every connection, and ends well', async () => {
    await Promise.all([blueProxy.down(), greenProxy.down()]);
    const service = await serve();
    const early = request(service, 'POST', '/items/1/bump');
    await blueProxy.listen();
    expect(await early).toMatchObject({ status: 200, body: { id: 1, value: 1 } });
    expect((await request(service, 'GET', '/items/1')).body).toEqual({ id: 1, value: 1 });
    expect((await request(service, 'GET', '/items/404')).status).toBe(404);
    await greenProxy.listen();

    for (let n = 0; n < 3; n++) {
      for (const side of ['blue', 'green'] as const) {
        await sides.sql(
          side,
          'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()',
        );
      }
      blueProxy.cut();
      greenProxy.cut();
      await pause(100);
    }
    await until(async () => (await request(service, 'GET', '/items/1')).status === 200);
    expect(service.child.exitCode).toBeNull();

    service.child.kill('SIGTERM');
    const [code] = (await once(service.child, 'exit')) as [number];
    expect([code, service.output()]).toEqual([0, `listening on ${service.address}\n`]);
  });

  test('is promoted under load without an error, and hands out tokens that another process takes over', async () => {
    const [service, other] = await Promise.all([serve(), serve()]);
    let isOver = false;
    const answers: Answer[] = [];
    const load = Array.from({ length: 8 }, async (_, n) => {
      while (!isOver) answers.push(await request(service, 'POST', `/items/${100 + n}/bump`));
    });
    await until(() => answers.length >= 20, 20_000);
    await sides.decide('green');
    await pause(100);
    await sides.open('green');
    const before = answers.length;
    await until(() => answers.length >= before + 20, 20_000);
    isOver = true;
    await Promise.all(load);
    expect(answers.filter(({ status }) => status !== 200)).toEqual([]);

    // Every acknowledged bump is on one side, and none is on both.
    const sum = 'SELECT coalesce(sum(value), 0)::int AS n FROM item WHERE id >= 100';
    const counts = await Promise.all((['blue', 'green'] as const).map((side) => sides.sql<{ n: number }>(side, sum)));
    const [onBlue = 0, onGreen = 0] = counts.map(([row]) => row?.n);
    expect(onBlue + onGreen).toBe(answers.length);
    expect(Math.min(onBlue, onGreen)).toBeGreaterThan(0);

    const written = await request(service, 'POST', '/items/100/bump');
    expect(written.token).toMatch(/^\d+\.0-0\.[\w-]{22}$/);
    const read = await request(other, 'GET', '/items/100', written.token);
    expect(read.body).toEqual(written.body);
  });
});
