import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { startPostgres } from '../../src/embedded/postgres-server.js';

describe('a PostgreSQL server of our own', () => {
  it('can be frozen as a whole and still be stopped', async () => {
    const server = await startPostgres({ version: 15, settings: { fsync: 'off' } });
    server.kill('SIGSTOP', 'all');
    await server.stop();
    expect(existsSync(server.dataDirectory)).toBe(false);
  });
});
