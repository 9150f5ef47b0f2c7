import { afterEach, expect, it, vi } from 'vitest';
import pg from 'pg';
import { planSchema } from '../../src/plan/schema.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import type { Database } from '../../src/postgres/session.js';

afterEach(() => vi.restoreAllMocks());

/** What PostgreSQL 12 knows of the settings that our sessions make. */
const KNOWN = new Set([
  ...['synchronous_commit', 'lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout'],
  ...[
    'default_transaction_read_only',
    'default_transaction_isolation',
    'default_transaction_deferrable',
    'search_path',
  ],
  ...['DateStyle', 'IntervalStyle', 'TimeZone', 'bytea_output', 'extra_float_digits', 'client_min_messages'],
  ...['row_security', 'standard_conforming_strings'],
]);

/** Answers as a server of 12 does whose catalogs know nothing of what later ones have. */
async function answer(sql: string): Promise<{ rows: object[] }> {
  const unknown = [...sql.matchAll(/set_config\('(\w+)'/g)].find(([, name = '']) => !KNOWN.has(name));
  if (unknown !== undefined) {
    throw Object.assign(new Error(`unrecognized configuration parameter "${unknown[1] ?? ''}"`), { code: '42704' });
  }
  if (sql.includes('set_config')) return Promise.resolve({ rows: [{ pid: 1 }] });
  if (sql.includes('server_version_num')) return Promise.resolve({ rows: [{ version: 12, superuser: true }] });
  throw Object.assign(new Error('column "datcollversion" does not exist'), { code: '42703' });
}

it('a server that is too old is told so, and nothing else of it', async () => {
  vi.spyOn(pg.Client.prototype, 'connect').mockResolvedValue(undefined as never);
  vi.spyOn(pg.Client.prototype, 'end').mockResolvedValue(undefined as never);
  vi.spyOn(pg.Client.prototype, 'query').mockImplementation(answer as never);
  const database = (side: Database['side']): Database => ({ side, connection: side, config: {}, peerConninfo: '' });
  const plan = planSchema.parse({ name: 'older', blue: { connection: 'b' }, green: { connection: 'g' } });
  const { findings } = await preflight({ blue: database('blue'), green: database('green'), plan, runId: 'run-1' });
  expect(findings.map(({ severity, check, side, object }) => `${severity} ${check} ${side} ${object}`)).toEqual([
    'error server-version blue PostgreSQL 12',
    'error server-version green PostgreSQL 12',
  ]);
});
