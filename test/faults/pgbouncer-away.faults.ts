import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer, startPgBouncer, type EmbeddedPgBouncer } from '../../src/embedded/pgbouncer.js';
import { ident } from '../../src/postgres/identifier.js';
import { progressLine } from '../../src/progress.js';
import { approveUpdate } from '../../workflows/messages.js';
import { inPhase, Migration, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED a PgBouncer that is away: pgbouncer is not installed\n');

const WHO = { by: 'grace', reason: 'the test says so' };
const NAMES = ['orders', 'orders_blue', 'orders_green'] as const;

describe.skipIf(!isThere)('a PgBouncer that is restarted when a promotion has been approved', () => {
  const user = `app_${randomBytes(4).toString('hex')}`;
  let pooler: EmbeddedPgBouncer;
  let migration: Migration;

  beforeAll(async () => {
    pooler = await startPgBouncer({ databases: '[databases]\n', users: { [user]: 'secret' }, adminUsers: [user] });
    migration = await Migration.create({
      ...{ blue: 'pg15', green: 'pg18', purpose: 'pooler away' },
      schema: 'CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL); INSERT INTO accounts VALUES (1, 0)',
      plan: {
        traffic: {
          stages: [{ percent: 10, for: '0s' }],
          gates: [{ metric: 'lag', max: '2s' }],
          approval: { before: ['promote'] },
          pgbouncer: { databases: ['orders'], instances: [{ connection: 'pooler_1', file: pooler.file }] },
        },
      },
      environment: (own) => ({
        ...own,
        VERDIGRIS_CONNECTION_POOLER_1: `postgres://${user}:secret@127.0.0.1:${pooler.port}/pgbouncer`,
      }),
    });
    for (const { config } of [migration.blue, migration.green]) {
      await withClient(config, (client) =>
        client.query(`CREATE ROLE ${ident(user)} SUPERUSER LOGIN PASSWORD 'secret'`),
      );
    }
    const leadTo = { orders: migration.blue, orders_blue: migration.blue, orders_green: migration.green };
    const entries = NAMES.map(
      (name) => `${name} = host=127.0.0.1 port=${leadTo[name].port} dbname=${leadTo[name].database}\n`,
    );
    writeFileSync(pooler.file, `[databases]\n${entries.join('')}`);
    const console = { host: '127.0.0.1', port: pooler.port, user, password: 'secret', database: 'pgbouncer' };
    await withClient(console, (admin) => admin.query('RELOAD'));
  });

  afterAll(async () => {
    const servers = [migration.blue, migration.green].map(({ config }) => ({ ...config, database: 'postgres' }));
    await pooler.stop();
    await migration.close();
    for (const config of servers) await withClient(config, (client) => client.query(`DROP ROLE ${ident(user)}`));
  });

  it('is waited for, the status says so, and nobody is asked again', { timeout: 300_000 }, async () => {
    const handle = await migration.start();
    await until(handle, 'asked', (s) => inPhase('promote')(s) && s.waiting?.for === 'approval', 180_000);
    await pooler.stopProcess();
    await handle.executeUpdate(approveUpdate, { args: [{ ...WHO, gate: 'promote' }] });
    const isTold = /waits for a pooler: the admin console of PgBouncer "pooler_1" can't be opened/;
    const answered = await until(
      handle,
      'told, or asked again',
      (s) => s.waiting?.for === 'approval' || s.progress.some((one) => isTold.test(progressLine(one))),
      60_000,
    );
    expect(answered.waiting).toBeNull();
    await sleep(2_000);
    await pooler.restart();
    const { decisions } = await until(handle, 'promoted', inPhase('standby'), 60_000);
    expect(decisions.filter(({ message }) => message === 'approve')).toHaveLength(1);
  });
});
