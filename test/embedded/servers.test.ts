import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { testDatabase, asDatabase, withClient } from '../support/postgres.js';
import { temporalClient } from '../support/temporal.js';
import { startPostgres } from '../../src/embedded/postgres-server.js';
import { withSession } from '../../src/postgres/session.js';

describe('the servers of a test run', () => {
  it('give a test databases of its own, between which rows flow', async () => {
    const blue = await testDatabase('pg15', 'Flow: "odd" name');
    const green = await testDatabase('pg18', 'flow');
    try {
      await withClient(blue.config, async (client) => {
        await client.query('CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)');
        await client.query('CREATE PUBLICATION p FOR ALL TABLES');
      });
      const rows = await withClient(green.config, async (client) => {
        await client.query('CREATE TABLE t (id int PRIMARY KEY)');
        await client.query(`CREATE SUBSCRIPTION s CONNECTION '${asDatabase(blue, 'blue').peerConninfo}' PUBLICATION p`);
        const read = async (): Promise<unknown> => (await client.query('SELECT id FROM t ORDER BY id')).rows;
        await expect.poll(read, { timeout: 10_000 }).toHaveLength(2);
        return read();
      });
      expect(rows).toEqual([{ id: 1 }, { id: 2 }]);
    } finally {
      // Blue first, while green's subscription still holds its slot: a failed test leaves such things behind.
      await blue.drop();
      await green.drop();
    }
    await blue.drop();
    await expect(withClient(blue.config, () => Promise.resolve())).rejects.toThrow(/does not exist/);
  });

  it('are known to the code under test as databases', async () => {
    const green = await testDatabase('pg18', 'session');
    try {
      const version = await withSession(asDatabase(green, 'green'), { purpose: 'test' }, async (session) => {
        const { rows } = await session.query<{ major: number }>(
          "SELECT current_setting('server_version_num')::int / 10000 AS major",
        );
        return rows[0]?.major;
      });
      expect(version).toBe(18);
    } finally {
      await green.drop();
    }
  });

  it('include a Temporal server that knows the search attributes of a run', async () => {
    const client = await temporalClient();
    try {
      const { customAttributes } = await client.connection.operatorService.listSearchAttributes({
        namespace: 'default',
      });
      expect(Object.keys(customAttributes ?? {})).toEqual(
        expect.arrayContaining(['VerdigrisPhase', 'VerdigrisTraffic', 'VerdigrisGate', 'VerdigrisLagSeconds']),
      );
    } finally {
      await client.connection.close();
    }
  });
});

describe('a PostgreSQL server of our own', () => {
  it('keeps its data and its port over a crash, and leaves no file behind', async () => {
    const server = await startPostgres({ version: 18, settings: { fsync: 'off' } });
    try {
      const { port } = server;
      await withClient({ connectionString: server.uri() }, (client) => client.query('CREATE TABLE t AS SELECT 1 AS n'));
      server.kill('SIGKILL');
      await server.restart();
      expect(server.port).toBe(port);
      await withClient({ connectionString: server.uri() }, async (client) => {
        expect((await client.query('SELECT n FROM t')).rows).toEqual([{ n: 1 }]);
      });
    } finally {
      await server.stop();
    }
    expect(existsSync(server.dataDirectory)).toBe(false);
    await server.stop();
  });
});
