import { createServer, type AddressInfo, type Socket } from 'node:net';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openSession, withSession, type Database } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

const USER = `connection_user_${randomBytes(4).toString('hex')}`;

let db: TestDatabase;
let database: Database;
beforeAll(async () => {
  db = await testDatabase('pg18', 'connection');
  database = asDatabase(db, 'green');
});
afterAll(() => db.drop());

const opening = (config: object): Promise<unknown> =>
  withSession({ ...database, config: { ...database.config, ...config } }, { purpose: 'test' }, () => Promise.resolve());

describe('a session that can not be opened is tried again', () => {
  it('when the server does not answer, or ends the connection', async () => {
    const sockets: Socket[] = [];
    const silent = createServer((socket) => sockets.push(socket));
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as AddressInfo;
    try {
      await expect(opening({ port, connectionTimeoutMillis: 200 })).rejects.toMatchObject({
        type: 'ConnectionFailed',
        retryable: true,
        message: expect.stringContaining('timeout expired') as string,
      });
      const cut = opening({ port });
      await sleep(50);
      sockets.forEach((socket) => socket.destroy());
      await expect(cut).rejects.toMatchObject({ type: 'ConnectionFailed', retryable: true });
    } finally {
      sockets.forEach((socket) => socket.destroy());
      await new Promise((resolve) => silent.close(resolve));
    }
  });

  it.each([
    ['role', `ALTER ROLE ${USER} CONNECTION LIMIT 0`],
    ['database', 'ALTER DATABASE %d CONNECTION LIMIT 0'],
  ])('when all connections of the %s are taken', async (_, limit) => {
    await withClient(db.config, async (client) => {
      await client.query(`CREATE ROLE ${USER} LOGIN PASSWORD 'secret-of-user'`);
      try {
        await client.query(limit.replace('%d', db.database));
        await expect(opening({ user: USER, password: 'secret-of-user' })).rejects.toMatchObject({
          type: 'ConnectionFailed',
          retryable: true,
          message: expect.stringMatching(/all connections are taken.*53300.*\nNext step: give green room/) as string,
        });
      } finally {
        await client.query(`DROP ROLE ${USER}; ALTER DATABASE ${db.database} CONNECTION LIMIT -1`);
      }
    });
  });

  it('when the server speaks no TLS, and that is asked for', async () => {
    await expect(opening({ ssl: true })).rejects.toMatchObject({
      ...{ type: 'ConnectionFailed', retryable: true },
      message: expect.stringMatching(/the server speaks no TLS\nNext step: mend .*sslmode/) as string,
    });
  });

  it('but not with a wrong password, without one, or to a database that is not there', async () => {
    for (const config of [{ password: 'wrong' }, { password: '' }, { database: 'nowhere' }]) {
      await expect(opening(config)).rejects.toMatchObject({ type: 'ConnectionFailed', retryable: false });
    }
  });
});

describe('a session of ours', () => {
  it('is ended by no timeout of the database', async () => {
    await withClient(db.config, async (client) => {
      for (const name of ['transaction_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout'])
        await client.query(`ALTER DATABASE ${db.database} SET ${name} = '200ms'`);
    });
    const session = await openSession(database, { purpose: 'test' });
    try {
      await sleep(300);
      await session.query('SELECT pg_sleep(0.3)');
      await session.query('BEGIN');
      await sleep(300);
      await session.query('COMMIT');
    } finally {
      await session.end().catch(() => undefined);
    }
  });
});
