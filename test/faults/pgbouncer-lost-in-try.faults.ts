import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer, startPgBouncer, type EmbeddedPgBouncer } from '../../src/embedded/pgbouncer.js';
import { ident } from '../../src/postgres/identifier.js';
import { approveUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { inPhase, Migration, statusOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED a PgBouncer that is lost in a try: pgbouncer is not installed\n');

const WHO = { by: 'grace', reason: 'the test says so' };
const NAMES = ['orders', 'orders_blue', 'orders_green'] as const;

describe.skipIf(!isThere)('a PgBouncer that freezes while a promotion is tried', () => {
  const user = `app_${randomBytes(4).toString('hex')}`;
  let pooler: EmbeddedPgBouncer;
  let migration: Migration;

  beforeAll(async () => {
    pooler = await startPgBouncer({ databases: '[databases]\n', users: { [user]: 'secret' }, adminUsers: [user] });
    migration = await Migration.create({
      ...{ blue: 'pg15', green: 'pg18', purpose: 'pooler lost in try' },
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
    pooler.kill('SIGCONT');
    await pooler.stop();
    await migration.close();
    for (const config of servers) await withClient(config, (client) => client.query(`DROP ROLE ${ident(user)}`));
  });

  it(
    'keeps no rollback: reads go back to blue, all else is undone, and it is named',
    { timeout: 400_000 },
    async () => {
      const handle = await migration.start();
      await until(handle, 'asked', (s) => inPhase('promote')(s) && s.waiting?.for === 'approval', 180_000);
      await handle.executeUpdate(approveUpdate, { args: [{ ...WHO, gate: 'promote' }] });
      // The try has announced its pause, and has not asked for it.
      const isAnnounced = (): boolean => readFileSync(pooler.file, 'utf8').includes('_moving_');
      for (let i = 0; i < 10_000 && !isAnnounced(); i++) await sleep(5);
      pooler.kill('SIGSTOP');
      expect(isAnnounced()).toBe(true);
      const begun = Date.now();
      await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
      await until(handle, 'reads back', (s) => s.rollingBack !== null && s.greenReadPercent === 0, 180_000);
      expect(Date.now() - begun).toBeLessThan(150_000);
      await handle.result().catch(() => undefined);
      const { rollingBack, writesOn } = await statusOf(handle);
      expect(writesOn).toBe('blue');
      expect(rollingBack?.notUndone).toEqual([expect.stringMatching(/^end the tries of the promotion: .*"pooler_1"/)]);
      expect(rollingBack?.undone).toContain('release both databases');
    },
  );
});
