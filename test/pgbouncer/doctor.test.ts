import { readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../src/cli/run.js';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { Instance } from '../../src/pgbouncer/instance.js';
import { PooledPair } from '../support/pooled-pair.js';
import { withClient } from '../support/postgres.js';
import { typed } from '../support/doctor-patient.js';
import { temporalClient, testTemporal } from '../support/temporal.js';
import { withSession } from '../../src/postgres/session.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED the doctor of PgBouncers: pgbouncer is not installed\n');

describe.skipIf(!isThere)('verdigris doctor and the PgBouncers of a plan', () => {
  let pair: PooledPair;
  let folder = '';
  let plan = '';

  beforeAll(async () => {
    pair = await PooledPair.create('pooled doctor', { poolers: 2 });
    folder = await mkdtemp(join(tmpdir(), 'verdigris-doctor-'));
    plan = join(folder, 'plan.json');
    const instances = pair.poolers.map(({ file }, i) => ({ connection: `pool_${i + 1}`, file }));
    writeFileSync(
      plan,
      JSON.stringify({
        ...{ name: pair.migration, blue: { connection: 'd_blue' }, green: { connection: 'd_green' } },
        traffic: {
          stages: [{ percent: 100, for: '1h' }],
          gates: [{ metric: 'lag', max: '5s' }],
          pgbouncer: { databases: ['orders'], instances },
        },
      }),
    );
    const uri = (side: 'blue' | 'green'): string => {
      const { host, port, user, password, database } = pair.databases[side].config;
      return `postgres://${String(user)}:${String(password)}@${String(host)}:${String(port)}/${String(database)}`;
    };
    process.env['VERDIGRIS_CONNECTION_D_BLUE'] = uri('blue');
    process.env['VERDIGRIS_CONNECTION_D_GREEN'] = uri('green');
    pair.poolers.forEach(({ port }, i) => {
      process.env[`VERDIGRIS_CONNECTION_POOL_${i + 1}`] = `postgres://${pair.user}:secret@127.0.0.1:${port}/pgbouncer`;
    });
  });

  afterAll(async () => {
    for (const name of ['D_BLUE', 'D_GREEN', 'POOL_1', 'POOL_2']) delete process.env[`VERDIGRIS_CONNECTION_${name}`];
    await rm(folder, { recursive: true, force: true });
    await pair.close();
  });

  /** Temporal is asked as well: one that answers saves seconds. */
  function isOver(): string[] {
    return ['--run-is-over', pair.migration, '--address', testTemporal().address];
  }

  async function doctor(...args: string[]): Promise<string> {
    return (await ended(...args)).text;
  }

  async function ended(...args: string[]): Promise<{ code: number; text: string }> {
    const lines: string[] = [];
    const say = (text: string): void => void lines.push(text);
    const code = await run(['doctor', plan, ...isOver(), ...args], { out: say, note: say });
    const text = lines.join('\n');
    expect(text).not.toContain('secret');
    return { code, text };
  }

  async function admin(i: number, command: string): Promise<void> {
    await withClient({ ...pair.clientOf(i), database: 'pgbouncer' }, (console) => console.query(command));
  }

  it('says where each leads, and that it is not paused', async () => {
    const text = await doctor();
    for (const name of ['pool_1', 'pool_2']) {
      expect(text).toContain(`PgBouncer ${name}: leads to blue; not paused; no mark of a run`);
    }
  });

  it('says that one is paused, what the mark of the run was, and how its clients go on', async () => {
    const [first] = pair.setup.instances;
    if (first === undefined) throw new Error('there are two');
    const instance = new Instance(first, pair.setup);
    await instance.load({ epoch: 7, side: 'blue', state: 'moving' });
    await instance.close();
    await admin(0, 'PAUSE orders');
    const text = await doctor();
    expect(text).toContain(
      `PgBouncer pool_1: leads to blue; PAUSED: orders; mark verdigris_${pair.migration}: epoch 7, blue, moving`,
    );
    expect(text).toMatch(
      /problem +PgBouncer "pool_1" holds its clients: "orders" paused, and no run lives.*\n +next step: .*: RELOAD; RESUME orders;/,
    );
    expect(text).toMatch(/has the mark of a run that is over \(.*, moving\)\n +next step: RELOAD now/);
    await admin(0, 'RESUME orders');
    expect(await doctor()).not.toContain('paused, and no run');
  });

  it('says that somebody has paused all of one, which no entry shows', async () => {
    await admin(0, 'PAUSE');
    const paused = await doctor();
    await admin(0, 'RESUME');
    expect(paused).toContain('PgBouncer pool_1: leads to blue; PAUSED AS A WHOLE; ');
    expect(paused).toMatch(
      /problem +PgBouncer "pool_1" holds all its clients: it is paused as a whole .*\n.* RESUME; without/,
    );
    expect(await doctor()).not.toMatch(/as a whole/i);
  });

  it('of a run that lives in Temporal, whose workers have died in the hold, says how its clients go on', async () => {
    const client = await temporalClient();
    const run = { workflowId: `verdigris/${pair.migration}`, taskQueue: 'nobody-serves-this', args: [{}] };
    const handle = await client.workflow.start('blueGreenMigration', run);
    const asked = ['doctor', plan, '--address', testTemporal().address];
    const held =
      /problem +PgBouncer "pool_1" holds its clients: "orders" paused.* no worker is seen at work\n.*Where none runs, .*RESUME orders;/;
    try {
      await admin(0, 'PAUSE orders');
      expect(await typed(...asked)).toMatchObject({ code: 1, text: expect.stringMatching(held) as string });
      expect(await typed(...asked, '--open', '--yes')).toMatchObject({
        code: 1,
        text: expect.stringMatching(held) as string,
      });
      // A worker at work would end it.
      await withSession(pair.databases.blue, { purpose: 'hold' }, async () => {
        const looked = await typed(...asked);
        expect(looked.text).toMatch(/note +PgBouncer "pool_1" holds its clients: "orders" paused: the run is moving/);
        expect(looked.text).not.toMatch(held);
        const opened = await typed(...asked, '--open', '--yes');
        expect(opened).toMatchObject({
          code: 1,
          text: expect.stringContaining('"pool_1" holds its clients') as string,
        });
      });
    } finally {
      await admin(0, 'RESUME orders');
      await handle.terminate('the test says so');
      await client.connection.close();
    }
  });

  it('says that one leads to the side that has no writes, and which is out of reach', async () => {
    const [, second] = pair.setup.instances;
    if (second === undefined) throw new Error('there are two');
    const instance = new Instance(second, pair.setup);
    await instance.load({ epoch: 8, side: 'green', state: 'settled' });
    await instance.close();
    const text = await doctor();
    expect(text).toMatch(
      /problem +PgBouncer "pool_2" leads to green, and writes are on blue\n +next step: .*"orders_blue".*RELOAD/,
    );
    await pair.poolers[1]?.stopProcess();
    expect(await doctor()).toMatch(/PgBouncer pool_2 \(out of reach: /);
    await pair.poolers[1]?.restart();
  });

  it('looks at consoles that no plan names, and says all in JSON', async () => {
    const out: string[] = [];
    const terminal = { out: (text: string) => void out.push(text), note: () => undefined };
    const names = ['--blue', 'd_blue', '--green', 'd_green', '--pgbouncer', 'pool_1', 'pool_2'];
    await run(['doctor', ...names, '--json', ...isOver()], terminal);
    const { poolers } = JSON.parse(out.join('')) as { poolers: object[] };
    expect(poolers).toMatchObject([
      { connection: 'pool_1', reached: true, paused: [], marks: [{ epoch: 7, state: 'moving' }] },
      { connection: 'pool_2', reached: true, paused: [], marks: [{ epoch: 8, side: 'green' }] },
    ]);
  });

  it('says that the settings of a pause are left, whether or not it has paused, until a RELOAD ends them', async () => {
    const instance = await secondLeadsToBlue(9);
    const left = /problem +PgBouncer "pool_2" lets the clients .* share one server connection.*\n +next step: RELOAD, /;
    expect(await doctor()).not.toMatch(left);
    // Its worker dies after this.
    await instance.becomeQuiet();
    await instance.close();
    const text = await doctor();
    expect(text).toMatch(left);
    expect(text).toContain('settings of a pause (server_login_retry = 0, min_pool_size = 0, max_db_connections = 1)');
    await admin(1, 'PAUSE orders');
    await admin(1, 'RESUME orders');
    expect(await doctor()).toMatch(left);
    await admin(1, 'RELOAD');
    expect(await doctor()).not.toMatch(left);
  });

  it('says that the mark of a run that was overtaken asks for a RELOAD, and a settled one for nothing', async () => {
    const next =
      /"pool_2" has the mark of a run that is over \(.*, settled(?:, overtaken)?\)\n +next step: (RELOAD now|nobody)/;
    const instance = await secondLeadsToBlue(10);
    expect(next.exec(await doctor())?.[1]).toBe('nobody');
    await instance.load({ epoch: 10, side: 'blue', state: 'settled', overtaken: true });
    await instance.close();
    expect(next.exec(await doctor())?.[1]).toBe('RELOAD now');
  });

  it('takes no mark of another migration for its own, and advises no RELOAD in the pause of that one', async () => {
    const file = pair.poolers[0]?.file ?? '';
    const before = readFileSync(file, 'utf8');
    const markedAs = async (state: string): Promise<string> => {
      writeFileSync(
        file,
        `${before.trimEnd()}\nverdigris_billing = host=127.0.0.1 port=1 dbname=epoch_5_blue_${state}\n`,
      );
      await admin(0, 'RELOAD');
      return doctor();
    };
    try {
      await admin(0, 'PAUSE orders');
      const moving = await markedAs('moving_1a2b3c4d');
      expect(moving).toMatch(
        /note +PgBouncer "pool_1" is in the promotion of another migration.*verdigris_billing, moving/,
      );
      expect(moving).toMatch(
        /"pool_1" holds its clients.*\n.*wait until the promotion of "billing" is over.*RESUME orders;/,
      );
      expect(moving).not.toMatch(/a run that is over \(verdigris_billing/);
      expect(await markedAs('settled')).not.toMatch(/a run that is over \(verdigris_billing|"billing"/);
    } finally {
      await admin(0, 'RESUME orders');
      writeFileSync(file, before);
      await admin(0, 'RELOAD');
    }
  });

  it('says what is wrong with them when it cleans up, since nobody else lets their clients go on', async () => {
    const paused =
      /problem +PgBouncer "pool_1" holds its clients: "orders" paused, and no run lives.*\n.*RESUME orders;/;
    await admin(0, 'PAUSE orders');
    expect(await ended('--clean')).toMatchObject({ code: 0, text: expect.stringMatching(paused) as string });
    const { code, text } = await ended('--clean', '--yes');
    expect(code).toBe(1);
    expect(text).toMatch(/done +blue: drop schema verdigris/);
    expect(text).toMatch(paused);
    await admin(0, 'RESUME orders');
    expect(await ended('--clean', '--yes')).toMatchObject({
      code: 0,
      text: expect.not.stringMatching(paused) as string,
    });
  });

  async function secondLeadsToBlue(epoch: number): Promise<Instance> {
    const [, second] = pair.setup.instances;
    if (second === undefined) throw new Error('there are two');
    const instance = new Instance(second, pair.setup);
    await instance.load({ epoch, side: 'blue', state: 'settled' });
    return instance;
  }
});
