import { WorkflowFailedError } from '@temporalio/client';
import { expect } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { statusQuery } from '../../workflows/messages.js';
import { LEDGER_SCHEMA } from './ledger-application.js';
import { leftovers, Migration, type MigrationOptions } from './migration.js';
import { withClient } from './postgres.js';

const open: Migration[] = [];

export async function closeRefused(): Promise<void> {
  for (const item of open.splice(0).reverse()) await item.close();
}

type Own = Record<string, string>;

interface Case {
  readonly plan?: Partial<PlanInput>;
  readonly environment?: (own: Own) => Own;
  readonly prepare?: (migration: Migration) => Promise<unknown>;
  readonly type: string;
  readonly says: RegExp;
}

function dateIn(days: number): string {
  return new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10);
}

/** Today's: a row of dates a week apart has no other one. */
const WEEKDAY = new Date().toUTCString().slice(0, 3);

const INPUTS: Record<string, Case> = {
  'an unknown connection': {
    plan: { blue: { connection: 'app_bleu' } },
    type: 'ConnectionUnknown',
    says: /"app_bleu"[\s\S]*Next step: set VERDIGRIS_CONNECTION_APP_BLEU/,
  },
  'a wrong password': {
    environment: (own) => ({
      ...own,
      VERDIGRIS_CONNECTION_APP_GREEN: wrongPassword(own['VERDIGRIS_CONNECTION_APP_GREEN'] ?? ''),
    }),
    type: 'PreflightFailed',
    says: /green[\s\S]*password/,
  },
  'blue that is green': {
    environment: (own) => ({ ...own, VERDIGRIS_CONNECTION_APP_GREEN: own['VERDIGRIS_CONNECTION_APP_BLUE'] ?? '' }),
    type: 'PreflightFailed',
    says: /same database/,
  },
  'a green that is not empty': {
    prepare: (migration) => withClient(migration.green.config, (c) => c.query('CREATE TABLE public.mine (id int)')),
    type: 'PreflightFailed',
    says: /public\.mine/,
  },
  'a way back that is gone at once': {
    plan: { standby: { for: '0s' } },
    type: 'PlanInvalid',
    says: /standby\.for[\s\S]*1s/,
  },
  'a typo in a table': {
    plan: { migrations: [{ addColumn: { table: 'entrys', column: 'x', type: 'int' } }] },
    type: 'PreflightFailed',
    says: /entrys[\s\S]*entries/,
  },
  'a down that is missing': {
    plan: {
      migrations: [
        { changeType: { table: 'entries', column: 'payload', newColumn: 'p', type: 'jsonb', up: 'to_jsonb(payload)' } },
      ] as unknown as NonNullable<PlanInput['migrations']>,
    },
    type: 'PlanInvalid',
    says: /migrations\[0\]\.changeType\.down/,
  },
  'a window that never opens': {
    plan: {
      windows: {
        promote: [`${WEEKDAY} 01:00-02:00`],
        holidays: Array.from({ length: 120 }, (_, week) => dateIn(7 * week)),
      },
    },
    type: 'PreflightFailed',
    says: /windows\.promote: no window of "promote" opens within 800 days[\s\S]*holidays/,
  },
  'a table without a key': {
    prepare: (migration) => withClient(migration.blue.config, (c) => c.query('CREATE TABLE public.keyless (v int)')),
    type: 'PreflightFailed',
    says: /keyless[\s\S]*(PRIMARY KEY|primary key)/,
  },
  'a missing privilege': {
    environment: (own) => ({
      ...own,
      VERDIGRIS_CONNECTION_APP_BLUE: (own['VERDIGRIS_CONNECTION_APP_BLUE'] ?? '').replace(
        /\/\/postgres:[^@]*@/,
        '//bad_input_weak:weak@',
      ),
    }),
    prepare: (migration) =>
      withClient(migration.blue.config, (c) =>
        c.query(
          `DO $$ BEGIN CREATE ROLE bad_input_weak LOGIN PASSWORD 'weak'; EXCEPTION WHEN duplicate_object THEN NULL; END $$`,
        ),
      ),
    type: 'PreflightFailed',
    says: /bad_input_weak[\s\S]*(superuser|SUPERUSER|REPLICATION)/,
  },
};

function wrongPassword(uri: string): string {
  return uri.replace(/:[^:@/]+@/, ':not-the-password@');
}

/** A run of that input ends with one clear error, and has touched nothing. */
export async function isRefused(name: string): Promise<void> {
  const { plan, environment, prepare, type, says } = INPUTS[name] ?? { type: '', says: /./ };
  const options: MigrationOptions = {
    blue: 'pg15',
    green: 'pg18',
    purpose: 'bad',
    schema: LEDGER_SCHEMA,
    ...(plan === undefined ? {} : { plan }),
    ...(environment === undefined ? {} : { environment }),
  };
  const migration = await Migration.create(options);
  open.push(migration);
  await prepare?.(migration);
  const before = [await leftovers(migration.blue), await leftovers(migration.green)];
  const handle = await migration.start();
  const error: unknown = await handle.result().catch((e: unknown) => e);

  expect(error).toBeInstanceOf(WorkflowFailedError);
  const { cause } = error as WorkflowFailedError;
  expect(cause).toMatchObject({ type });
  expect(cause?.message).toMatch(says);
  expect(cause?.message).toMatch(/Next step: /);
  expect(cause?.message).not.toMatch(/not-the-password|postgres:\/\/\w/);
  expect([await leftovers(migration.blue), await leftovers(migration.green)]).toEqual(before);
  // Whoever asks the run later hears the same.
  const { now, failure = '' } = await handle.query(statusQuery);
  expect(failure).toMatch(says);
  expect(failure).toMatch(/Next step: /);
  expect(now).not.toMatch(/:$|\n/);
}
