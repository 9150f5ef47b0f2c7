import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import type { WorkflowHandle } from '@temporalio/client';
import type pg from 'pg';
import { expect } from 'vitest';
import { startPgBouncer, type EmbeddedPgBouncer } from '../../src/embedded/pgbouncer.js';
import { ident } from '../../src/postgres/identifier.js';
import { progressLine } from '../../src/progress.js';
import { inPhase, Migration, until } from './migration.js';
import { withClient } from './postgres.js';

/** A migration whose writes move by a PgBouncer, `pooler_1`, when that has been approved. */
export interface PooledMigration {
  readonly pooler: EmbeddedPgBouncer;
  readonly migration: Migration;
  /** How to reach its admin console. */
  readonly console: pg.ClientConfig;
  readonly close: () => Promise<void>;
}

const NAMES = ['orders', 'orders_blue', 'orders_green'] as const;

export async function pooledMigration(purpose: string): Promise<PooledMigration> {
  const user = `app_${randomBytes(4).toString('hex')}`;
  const pooler = await startPgBouncer({ databases: '[databases]\n', users: { [user]: 'secret' }, adminUsers: [user] });
  const migration = await Migration.create({
    ...{ blue: 'pg15', green: 'pg18', purpose },
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
  const { blue, green } = migration;
  for (const { config } of [blue, green]) {
    await withClient(config, (client) => client.query(`CREATE ROLE ${ident(user)} SUPERUSER LOGIN PASSWORD 'secret'`));
  }
  const leadTo = { orders: blue, orders_blue: blue, orders_green: green };
  const entries = NAMES.map(
    (name) => `${name} = host=127.0.0.1 port=${leadTo[name].port} dbname=${leadTo[name].database}\n`,
  );
  writeFileSync(pooler.file, `[databases]\n${entries.join('')}`);
  const console = { host: '127.0.0.1', port: pooler.port, user, password: 'secret', database: 'pgbouncer' };
  await withClient(console, (admin) => admin.query('RELOAD'));
  return {
    pooler,
    migration,
    console,
    close: async () => {
      const servers = [blue, green].map(({ config }) => ({ ...config, database: 'postgres' }));
      await pooler.stop();
      await migration.close();
      for (const config of servers) await withClient(config, (client) => client.query(`DROP ROLE ${ident(user)}`));
    },
  };
}

/** The approved promotion waits for a pooler, and says so by `isTold`; nobody is asked again. */
export async function waitsForPooler(handle: WorkflowHandle, isTold: RegExp): Promise<void> {
  const answered = await until(
    handle,
    'told, or asked again',
    (s) => s.waiting?.for === 'approval' || s.progress.some((one) => isTold.test(progressLine(one))),
    60_000,
  );
  expect(answered.waiting).toBeNull();
}

export async function isPromotedWithOneApproval(handle: WorkflowHandle): Promise<void> {
  const { decisions } = await until(handle, 'promoted', inPhase('standby'), 60_000);
  expect(decisions.filter(({ message }) => message === 'approve')).toHaveLength(1);
}
