import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Haproxies, RuntimeAddress } from '../../src/haproxy/haproxy.js';
import { checkHaproxies } from '../../src/haproxy/preflight.js';
import { whereLeads, whoIsThere, type Leads } from '../../src/haproxy/reach.js';
import { refuseReadsOnBlue } from '../../src/haproxy/reads-on.js';
import { serversOf } from '../../src/haproxy/shown.js';
import { parsePlan } from '../../src/plan/parse.js';
import type { PlanInput } from '../../src/plan/schema.js';
import type { Databases } from '../../src/postgres/session.js';
import { configOf, findHaproxy, TestHaproxy } from '../support/haproxy.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';

const isThere = findHaproxy() !== undefined;
if (!isThere) process.stdout.write('SKIPPED the preflight of HAProxy: haproxy is not installed\n');

describe.skipIf(!isThere)('the preflight of HAProxy', () => {
  let blue: TestDatabase;
  let green: TestDatabase;
  let databases: Databases;
  let haproxy: TestHaproxy;
  let right = '';

  beforeAll(async () => {
    blue = await testDatabase('pg15', 'haproxy preflight');
    green = await testDatabase('pg18', 'haproxy preflight');
    databases = { blue: asDatabase(blue, 'blue'), green: asDatabase(green, 'green') };
    right = configOf({ blue: blue.port, green: green.port });
    haproxy = await TestHaproxy.start(right);
  });

  afterEach(async () => {
    haproxy.listen = right;
    await haproxy.restart();
  });

  afterAll(async () => {
    await haproxy.stop();
    await green.drop();
    await blue.drop();
  });

  type Traffic = NonNullable<PlanInput['traffic']>;

  async function findings(
    more: Partial<NonNullable<Traffic['haproxy']>> = {},
    stages: Traffic['stages'] = [{ percent: 100, for: '1m' }],
    uri = haproxy.uri,
    others: Record<string, string> = {},
  ): Promise<string[]> {
    const parsed = parsePlan({
      ...{ name: 'shop', blue: { connection: 'a' }, green: { connection: 'b' } },
      traffic: { stages, haproxy: { backend: 'reads', instances: ['haproxy'], ...more } },
    });
    if (!('plan' in parsed)) throw new Error('the plan is not one');
    const found = await checkHaproxies(parsed.plan, databases, {
      VERDIGRIS_CONNECTION_HAPROXY: uri,
      ...Object.fromEntries(Object.entries(others).map(([name, other]) => [`VERDIGRIS_CONNECTION_${name}`, other])),
    });
    const text = found.map(({ message, remedy }) => `${message} ${remedy}`).join();
    expect(text).not.toContain(String(blue.config.password));
    expect(text).not.toContain(haproxy.socket);
    return found.map(({ severity, check, side }) => `${severity} ${check} ${side}`).sort();
  }

  async function configured(listen: string): Promise<void> {
    haproxy.listen = listen;
    await haproxy.restart();
  }

  it('finds nothing where all is well, and leaves the weights as they are', async () => {
    expect(await findings()).toEqual([]);
    expect(await haproxy.weights()).toBe('200/0');
  });

  it('finds nothing in the configuration of the example', async () => {
    const text = readFileSync(new URL('../../examples/haproxy/haproxy.cfg', import.meta.url), 'utf8');
    const lines = text.slice(text.indexOf('balance roundrobin'), text.indexOf('# For the gates'));
    await configured(
      `  ${lines.replaceAll('db-old.internal:5432', `127.0.0.1:${blue.port}`).replace('db-new.internal:5432', `127.0.0.1:${green.port}`)}`,
    );
    // Its health checks speak PostgreSQL.
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    expect(await findings()).toEqual([]);
  });

  it('refuses a runtime API that is unknown, is no address, is not there, or may only look', async () => {
    expect(await findings({ instances: ['other'] })).toEqual(['error haproxy-api both']);
    expect(await findings({}, [], 'http://somewhere')).toEqual(['error haproxy-api both']);
    expect(await findings({}, [], 'unix:/nowhere/admin.sock')).toEqual(['error haproxy-api both']);
    expect(await findings({}, [], 'tcp://127.0.0.1:1')).toEqual(['error haproxy-api both']);
    await haproxy.restart('operator');
    expect(await findings()).toEqual(['error haproxy-level both']);
  });

  it('refuses what is no runtime API, such as the page of statistics, with one error that says so', async () => {
    const page = createServer((_request, response) => response.writeHead(400).end('Bad request'));
    const port = await new Promise<number>((resolve) =>
      page.listen(0, '127.0.0.1', () => resolve((page.address() as AddressInfo).port)),
    );
    expect(await findings({}, [], `tcp://127.0.0.1:${port}`)).toEqual(['error haproxy-api both']);
    page.close();
  });

  it('tells each HAProxy that it does not know, and looks at the others; two of one address are one', async () => {
    await haproxy.ask('set server reads/green weight 20');
    expect(await findings({ instances: ['other', 'haproxy', 'another'] })).toEqual([
      'error haproxy-api both',
      'error haproxy-api both',
      'error haproxy-weights green',
    ]);
    await haproxy.restart();
    expect(await findings({ instances: ['haproxy', 'again'] }, [], haproxy.uri, { AGAIN: haproxy.uri })).toEqual([
      'error haproxy-api both',
    ]);
  });

  it('takes a server that is disabled in the configuration for held after a restart, and for what it is now', async () => {
    await configured(right.replace('weight 0', 'weight 0 disabled'));
    expect(await findings()).toEqual(['error haproxy-health green', 'error haproxy-restart green']);
    await haproxy.ask('set server reads/green state ready');
    expect(await findings()).toEqual(['error haproxy-restart green']);
  });

  it('takes a server for held by what holds it, not by another host name than the configuration has', () => {
    const held = (adminState: number): boolean[] =>
      serversOf(`1\n# srv_name srv_addr srv_op_state srv_admin_state\nblue 127.0.0.1 2 ${adminState}\n`).map(
        ({ isHeld }) => isHeld,
      );
    for (const flags of [1, 2, 8, 16, 32, 65]) expect(held(flags), String(flags)).toEqual([true]);
    for (const flags of [0, 4, 64]) expect(held(flags), String(flags)).toEqual([false]);
  });

  it("can't be asked where the server of a HAProxy on another machine is at its own 127.0.0.1", async () => {
    const address = { host: '127.0.0.1', port: blue.port };
    const known = await whoIsThere(databases);
    const leads = (api: RuntimeAddress): Promise<Leads> => whereLeads(databases, 'green', { address }, known, api);
    for (const api of [{ path: '/run/haproxy.sock' }, { host: 'localhost', port: 1 }])
      expect(await leads(api)).toEqual({ to: 'the other side' });
    expect(await leads({ host: '192.0.2.1', port: 9_999 })).toMatchObject({ to: 'unknown' });
  });

  it('refuses a backend or server that is not there, or is not for PostgreSQL', async () => {
    expect(await findings({ backend: 'writes' })).toEqual(['error haproxy-backend both']);
    expect(await findings({ green: 'gren' })).toContain('error haproxy-backend green');
    await configured(`  mode http\n${right}`);
    expect(await findings()).toEqual(['error haproxy-backend both']);
  });

  it('refuses what would share otherwise than a stage says: algorithms, sticky clients, other servers', async () => {
    for (const algorithm of ['source', 'first', 'static-rr']) {
      await configured(configOf({ blue: blue.port, green: green.port }, [`balance ${algorithm}`]));
      expect(await findings()).toEqual(['error haproxy-balance both']);
    }
    for (const algorithm of ['leastconn', 'random']) {
      await configured(configOf({ blue: blue.port, green: green.port }, [`balance ${algorithm}`]));
      expect(await findings()).toEqual([]);
    }
    const sticky = ['balance roundrobin', 'stick-table type ip size 1k', 'stick on src'];
    await configured(configOf({ blue: blue.port, green: green.port }, sticky));
    expect(await findings()).toEqual(['error haproxy-sticky both']);
    await configured(`${right}  server blue_2 127.0.0.1:${blue.port} check\n`);
    expect(await findings()).toEqual(['error haproxy-servers both']);
  });

  it('refuses weights that lead to green already, now or after a restart', async () => {
    await haproxy.ask('set server reads/green weight 20');
    expect(await findings()).toEqual(['error haproxy-weights green']);
    await configured(right.replace('weight 0', 'weight 20'));
    expect(await findings()).toEqual(['error haproxy-restart green', 'error haproxy-weights green']);
  });

  it('refuses a green that is down or held, and warns of one without a check and of a 100 % without a way out', async () => {
    await haproxy.ask('set server reads/green state drain');
    expect(await findings()).toEqual(['error haproxy-health green']);
    await configured(configOf({ blue: blue.port, green: 1 }));
    const isUp = async (): Promise<boolean | undefined> =>
      serversOf(await haproxy.ask('show servers state reads')).find(({ name }) => name === 'green')?.isUp;
    await expect.poll(isUp).toBe(false);
    expect(await findings()).toEqual(['error haproxy-health green', 'warning haproxy-reach green']);
    const lines = right.split('\n').filter((line) => !line.includes('blue_again'));
    await configured(lines.join('\n').replace('weight 0 check inter 200ms fall 2', 'weight 0'));
    expect(await findings()).toEqual(['warning haproxy-fallback both', 'warning haproxy-health green']);
    expect(await findings({}, [{ percent: 50, for: '1m' }])).toEqual(['warning haproxy-health green']);
  });

  it('refuses servers that lead to the other side', async () => {
    await configured(configOf({ blue: green.port, green: blue.port }));
    // The plan's user of each side is not the other one's, and is asked all the same.
    expect(await findings()).toEqual(['error haproxy-reach blue', 'error haproxy-reach green']);
    await configured(configOf({ blue: blue.port, green: blue.port }));
    expect(await findings()).toEqual(['error haproxy-reach green']);
  });

  it('warns of an agent, which may set the weights', async () => {
    await configured(right.replace(/server green .*/, '$& agent-check agent-port 1 agent-inter 2s'));
    expect(await findings()).toEqual(['warning haproxy-agent green']);
  });

  describe('before blue is left as it is', () => {
    const green100 = (): Promise<{ percent: number; stamp: string }> => Promise.resolve({ percent: 100, stamp: '2/1' });
    const onGreen = (): string => `  server green 127.0.0.1:${green.port} weight 200\n`;

    /** Why it may not be; what could not be seen otherwise. */
    async function refusal(): Promise<string> {
      const setup: Haproxies = {
        ...{ migration: 'shop', backend: 'reads', servers: { blue: 'blue', green: 'green' }, openConnections: 'cut' },
        instances: [{ connection: 'haproxy', address: { path: haproxy.socket } }],
      };
      return refuseReadsOnBlue(setup, green100, databases).then(
        (warnings) => warnings.join(),
        (error: unknown) => String(error),
      );
    }

    it('no server may lead to it after a restart, whatever it is called and by which name of it', async () => {
      await configured(onGreen());
      expect(await refusal()).toBe('');
      // The server "blue" is gone, and its way out has been forgotten.
      await configured(`${onGreen()}  server blue_again 127.0.0.1:${blue.port} backup\n`);
      expect(await refusal()).toMatch(/its server "blue_again" leads to blue, too/);
      await configured(
        `${onGreen()}  server blue 127.0.0.1:${blue.port} weight 0\n  server again 127.0.0.2:${blue.port} backup\n`,
      );
      expect(await refusal()).toMatch(/its server "again" leads to blue, too|could not be seen/);
      await configured(`${onGreen()}  server away 127.0.0.1:1 backup\n`);
      expect(await refusal()).toMatch(/^HAProxy "haproxy": whether its server "away" leads to blue could not be seen/);
      await configured(`${onGreen()}  server green_again 127.0.0.1:${green.port} backup\n`);
      expect(await refusal()).toBe('');
    });
  });
});
