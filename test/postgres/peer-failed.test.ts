import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { refresh } from '../../src/postgres/bootstrap/synchronized-tables.js';
import { isPeerFailure } from '../../src/postgres/peer-failed.js';
import { ensureSlot } from '../../src/postgres/replication-slot.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { dropSubscription, ensureSubscription } from '../../src/postgres/subscription.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

describe("a green whose server blue's does not let in", () => {
  const role = `repl_${randomBytes(4).toString('hex')}`;
  const name = `verdigris_${role}_to_green`;
  const own: TestDatabase[] = [];
  let blue: Session;
  let green: Session;
  let peer: Database;

  beforeAll(async () => {
    const [blueDb, greenDb] = [await testDatabase('pg15', 'peer blue'), await testDatabase('pg18', 'peer green')];
    own.push(greenDb, blueDb);
    blue = await openSession(asDatabase(blueDb, 'blue'), { purpose: 'test' });
    green = await openSession(asDatabase(greenDb, 'green'), { purpose: 'test' });
    await blue.query(`CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'first'; CREATE PUBLICATION ${name}`);
    await ensureSlot(blue, name);
    const peerConninfo = `host=127.0.0.1 port=${blueDb.port} user=${role} password=first dbname=${blueDb.database}`;
    peer = { ...asDatabase(blueDb, 'blue'), peerConninfo };
  });

  afterAll(async () => {
    await dropSubscription(green, name);
    await Promise.all([closeSession(blue), closeSession(green)]);
    const [, blueDb] = own;
    for (const database of own) await database.drop();
    if (blueDb === undefined) return;
    await withClient({ ...blueDb.config, database: 'postgres' }, (client) => client.query(`DROP ROLE ${role}`));
  });

  const subscribe = (conninfo = peer.peerConninfo): Promise<void> =>
    ensureSubscription(green, {
      ...{ name, conninfo, peer, publisherVersion: 15 },
      ...{ copyData: false, enabled: true },
    });

  async function failureOf(work: Promise<unknown>): Promise<unknown> {
    return work.then(
      () => undefined,
      (error: unknown) => error,
    );
  }

  function expectFitForHistory(error: unknown, why: RegExp): void {
    const { message } = error as Error;
    expect(message).toMatch(/^the server of green can't reach blue by the connection "test_blue": /);
    expect(message).toMatch(why);
    expect(message).toContain('VERDIGRIS_CONNECTION_TEST_BLUE_PEER');
    for (const secret of [role, '127.0.0.1', 'first', 'second']) expect(message).not.toContain(secret);
    expect(error).toMatchObject({ type: 'ConnectionFailed', retryable: true });
    expect(isPeerFailure(error)).toBe(true);
  }

  it('is told by the name of the connection, without host, address and user', async () => {
    await blue.query(`ALTER ROLE ${role} PASSWORD 'second'`);
    expectFitForHistory(await failureOf(subscribe()), /password authentication failed .*\(08006\)/);
    await blue.query(`ALTER ROLE ${role} PASSWORD 'first' NOLOGIN`);
    expectFitForHistory(await failureOf(subscribe()), /is not permitted to log in/);
    await blue.query(`ALTER ROLE ${role} LOGIN`);
  });

  it('is told so, too, when tables are added to the subscription', async () => {
    await subscribe();
    await refresh(peer, blue, green, name);
    await blue.query(`ALTER ROLE ${role} PASSWORD 'second'`);
    expectFitForHistory(await failureOf(refresh(peer, blue, green, name)), /password authentication failed/);
    await blue.query(`ALTER ROLE ${role} PASSWORD 'first'`);
  });

  it('is not what other errors are called, which do not quote the address either', async () => {
    await dropSubscription(green, name);
    const error = await failureOf(subscribe(`${peer.peerConninfo} nonsense`));
    expect(error).toMatchObject({ code: '42601' });
    expect(isPeerFailure(error)).toBe(false);
    for (const secret of [role, '127.0.0.1', 'first']) expect((error as Error).message).not.toContain(secret);
  });
});
