import { afterEach, describe, expect, it, vi } from 'vitest';
import pg from 'pg';
import { planSchema } from '../../src/plan/schema.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import { databasesOf } from '../../src/worker/connections.js';
import { openReplicationSession, openSession } from '../../src/postgres/session.js';

afterEach(() => vi.restoreAllMocks());

describe('a connection that can not be opened', () => {
  const database = { side: 'blue', connection: 'shop_blue', config: {}, peerConninfo: '' } as const;

  it.each([
    ['SELF_SIGNED_CERT_IN_CHAIN', 'is of no authority that the worker trusts'],
    ['DEPTH_ZERO_SELF_SIGNED_CERT', 'is of no authority that the worker trusts'],
    ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'is of no authority that the worker trusts'],
    ['CERT_HAS_EXPIRED', 'has expired'],
    ['ERR_TLS_CERT_ALTNAME_INVALID', 'is for another host name'],
  ])('for its certificate (%s) is tried again, and says what is wrong and what to mend', async (code, told) => {
    const refused = Object.assign(new Error("Host: db-7.internal. is not in the cert's altnames"), { code });
    vi.spyOn(pg.Client.prototype, 'connect').mockRejectedValue(refused as never);
    await expect(openSession(database, { purpose: 'test' })).rejects.toMatchObject({
      ...{ type: 'ConnectionFailed', retryable: true },
      message:
        `blue: the connection "shop_blue" can't be opened: the server's certificate ${told} (${code})\n` +
        'Next step: mend the certificate of blue, or the host, sslmode and sslrootcert of VERDIGRIS_CONNECTION_SHOP_BLUE where the worker runs, and restart it; if they are to stay so for the other server, write them into VERDIGRIS_CONNECTION_SHOP_BLUE_PEER',
    });
  });

  it.each([
    ['EAI_AGAIN', 'getaddrinfo EAI_AGAIN db-7.internal', 'the name service does not answer (EAI_AGAIN)'],
    ['EHOSTUNREACH', 'connect EHOSTUNREACH 10.0.0.7:5432', 'no way leads to the host (EHOSTUNREACH)'],
    ['EADDRNOTAVAIL', 'connect EADDRNOTAVAIL 10.0.0.7:5432', 'it was refused or lost (EADDRNOTAVAIL)'],
    ['57P03', 'the database system is starting up', 'the server starts, stops or recovers (57P03)'],
    ['28P01', 'password authentication failed for user "repl"', 'the password or the user is wrong (28P01)'],
  ])('with %s is told by its name and the code, without the address', async (code, message, told) => {
    vi.spyOn(pg.Client.prototype, 'connect').mockRejectedValue(Object.assign(new Error(message), { code }) as never);
    const failed: unknown = await openSession(database, { purpose: 'test' }).catch((error: unknown) => error);
    expect((failed as Error).message.split('\n')[0]).toBe(`blue: the connection "shop_blue" can't be opened: ${told}`);
    expect((failed as Error).message).not.toMatch(/10\.0\.0\.7|db-7|repl/);
  });

  it.each([
    [{}, true],
    [{ host: 'db-7.internal', ssl: false }, true],
    [{ ssl: { rejectUnauthorized: false } }, false],
    [{ host: '/var/run/postgresql' }, false],
  ])('since the server lets nobody in without TLS says so where it has none: %j', async (config, isTold) => {
    const words = 'no pg_hba.conf entry for host "10.0.0.7", user "app", database "shop", no encryption';
    const refused = Object.assign(new Error(words), { code: '28000' });
    vi.spyOn(pg.Client.prototype, 'connect').mockRejectedValue(refused as never);
    const failed: unknown = await openSession({ ...database, config }, { purpose: 'test' }).catch((e: unknown) => e);
    const [what = '', next = ''] = (failed as Error).message.split('\n');
    expect(what).toMatch(/the server does not let this user in \(pg_hba\.conf, NOLOGIN\)/);
    expect(what.includes('this connection has no TLS, and the server may want it')).toBe(isTold);
    expect(next.includes('?sslmode=verify-full&sslrootcert=')).toBe(isTold);
    expect(next).toContain('VERDIGRIS_CONNECTION_SHOP_BLUE');
    expect((failed as Error).message).not.toMatch(/10\.0\.0\.7|db-7/);
  });

  it.each(['a string', 'a non-empty string'])(
    'since there is no password says so, and where it belongs: %s',
    async (what) => {
      const refused = new Error(`SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be ${what}`);
      vi.spyOn(pg.Client.prototype, 'connect').mockRejectedValue(refused as never);
      await expect(openSession(database, { purpose: 'test' })).rejects.toMatchObject({
        ...{ type: 'ConnectionFailed', retryable: false },
        message: expect.stringContaining(
          "can't be opened: the server asks for a password, and there is none\n",
        ) as string,
        nextStep: expect.stringMatching(/^write user and password into VERDIGRIS_CONNECTION_SHOP_BLUE/) as string,
      });
    },
  );

  it('since nobody knows the host tells that a password may have been taken for it', async () => {
    const unknown = Object.assign(new Error('getaddrinfo ENOTFOUND ss'), { code: 'ENOTFOUND' });
    vi.spyOn(pg.Client.prototype, 'connect').mockRejectedValue(unknown as never);
    const failed: unknown = await openSession(database, { purpose: 'test' }).catch((error: unknown) => error);
    expect((failed as Error).message).toMatch(/the host name is not known \(ENOTFOUND\)\n.*percent-encoded/);
    expect((failed as Error).message).not.toContain(' ss');
  });

  it('is told together with the parameters that the worker makes nothing of, such as a service', async () => {
    const away = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    vi.spyOn(pg.Client.prototype, 'connect').mockRejectedValue(away as never);
    const plan = planSchema.parse({
      name: 'shop',
      blue: { connection: 'shop_blue' },
      green: { connection: 'shop_green' },
    });
    const { blue, green } = databasesOf(plan, {
      VERDIGRIS_CONNECTION_SHOP_BLUE: 'postgres://?service=shop',
      VERDIGRIS_CONNECTION_SHOP_GREEN: 'postgres://app:12?Leck@h/shop',
    });
    const { findings } = await preflight({ blue, green, plan, runId: 'run' });
    expect(findings.map(({ check, side }) => `${side} ${check}`)).toEqual([
      'blue connection',
      'green connection',
      'blue connection-parameters',
    ]);
    expect(findings[2]?.message).toContain('VERDIGRIS_CONNECTION_SHOP_BLUE: service');
    expect(JSON.stringify(findings)).not.toContain('Leck');
  });

  it('for replication since the user may not says which attribute it lacks', async () => {
    const refused = Object.assign(new Error('permission denied to start WAL sender'), { code: '42501' });
    vi.spyOn(pg.Client.prototype, 'connect').mockRejectedValue(refused as never);
    await expect(openReplicationSession(database, 'test')).rejects.toMatchObject({
      ...{ type: 'ConnectionFailed', retryable: false },
      nextStep: expect.stringContaining('ALTER ROLE ... REPLICATION for that user on blue') as string,
    });
  });
});
