import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ident } from '../../src/postgres/identifier.js';
import type { Promotion } from '../../src/postgres/promotion.js';
import { TooFarBehind, waitForShortLag } from '../../src/postgres/promotion-readiness.js';
import { distance } from '../../src/postgres/preflight/distance.js';
import type { PairContext } from '../../src/postgres/preflight/check.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import type { Side } from '../../src/side.js';
import { LinkProxy } from '../support/link-proxy.js';
import { ReplicatedPair } from '../postgres/replicated-pair.js';

/** A round trip of these takes 30 ms at least: a marker is never there within 20 ms. */
const ONE_WAY_MS = 15;

describe('a worker that is far from one side', () => {
  let pair: ReplicatedPair;
  const far = {} as Record<Side, Session>;
  const links: LinkProxy[] = [];

  beforeAll(async () => {
    pair = await ReplicatedPair.start('pg15', 'distance', 'CREATE TABLE t (id int PRIMARY KEY)');
    for (const database of [pair.blueDatabase, pair.greenDatabase]) far[database.side] = await farFrom(database);
  });
  afterAll(async () => {
    await Promise.all(Object.values(far).map(closeSession));
    for (const link of links) await link.close();
    await pair.stop();
  });

  async function farFrom(database: Database): Promise<Session> {
    const link = await LinkProxy.start(database.config.port ?? 0);
    links.push(link);
    const session = await openSession(
      { ...database, config: { ...database.config, host: '127.0.0.1', port: link.port } },
      { purpose: 'test' },
    );
    link.delay(ONE_WAY_MS);
    return session;
  }

  function sessions(...sides: readonly Side[]): { readonly aside: Session; readonly to: Session } {
    return {
      aside: sides.includes('blue') ? far.blue : pair.ourBlue,
      to: sides.includes('green') ? far.green : pair.ourGreen,
    };
  }

  const promotion = (maxHoldMs: number): Promotion =>
    ({ from: 'blue', migration: 'none', maxHoldMs }) as unknown as Promotion;

  const wait = (sides: readonly Side[], maxHoldMs: number, withinMs: number): Promise<void> =>
    waitForShortLag(sessions(...sides), promotion(maxHoldMs), withinMs);

  it.each([[['green']], [['blue']], [['blue', 'green']]] as const)(
    'is not what makes the new side count as behind: %s',
    async (sides) => {
      await wait(sides, 2_000, 8_000);
    },
  );

  it('is told where the hold would be given up for it, and no loss is offered then', async () => {
    const waiting = wait(['green'], 100, 3_000);
    await expect(waiting).rejects.not.toBeInstanceOf(TooFarBehind);
    await expect(waiting).rejects.toMatchObject({
      type: 'PromotionBlocked',
      message: expect.stringMatching(
        /the worker is too far .*\(\d+ ms to blue, [34]\d ms to green\).* promote\.maxHold is 100 ms\. green is close behind/,
      ) as string,
    });
  });

  it('is told apart from what the new side is behind', async () => {
    const { rows } = await pair.green.query<{ name: string }>(
      `SELECT subname AS name FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
    );
    const name = ident(rows[0]?.name ?? '');
    await pair.green.query(`ALTER SUBSCRIPTION ${name} DISABLE`);
    for (const maxHoldMs of [2_000, 100]) {
      const waiting = wait(['green'], maxHoldMs, 800);
      await expect(waiting).rejects.toBeInstanceOf(TooFarBehind);
      await expect(waiting).rejects.toMatchObject({
        message: expect.stringMatching(
          /too far behind: a marker did not arrive, 20 ms are asked for beside the \d+ ms of its round trips \(\d+ ms to blue, [34]\d ms to green\)/,
        ) as string,
      });
    }
    await pair.green.query(`ALTER SUBSCRIPTION ${name} ENABLE`);
    await pair.caughtUp();
  });

  it('nor does it count what a COMMIT takes on the old side, unless the hold would be given up for it', async () => {
    await pair.blue.query(
      `CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.03); RETURN NULL; END';
       CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT OR UPDATE ON verdigris.marker_to_green
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow_commit()`,
    );
    try {
      await wait([], 2_000, 3_000);
      const waiting = wait([], 80, 2_000);
      await expect(waiting).rejects.not.toBeInstanceOf(TooFarBehind);
      await expect(waiting).rejects.toMatchObject({
        type: 'PromotionBlocked',
        message: expect.stringMatching(
          /a COMMIT on blue takes [3-9]\d ms: .* promote\.maxHold is 80 ms\. green is close behind: is its disk slow/,
        ) as string,
      });
    } finally {
      await pair.blue.query('DROP FUNCTION slow_commit CASCADE');
    }
  });

  it('is a warning of the preflight, with the hold that it makes', async () => {
    const check = async (maxHold: string, ...sides: readonly Side[]): Promise<unknown> => {
      const { aside, to } = sessions(...sides);
      const plan = { promote: { maxHold } };
      return distance.run({ blue: { session: aside, plan }, green: { session: to, plan } } as unknown as PairContext);
    };
    expect(await check('2s')).toEqual([]);
    expect(await check('2s', 'green')).toEqual([
      expect.objectContaining({
        severity: 'warning',
        side: 'both',
        message: expect.stringMatching(
          /to blue takes \d+ ms and one to green [34]\d ms: .* wait for up to [12]\d\d ms in a promotion$/,
        ) as string,
        remedy: 'Run the worker near blue and green',
      }),
    ]);
    expect(await check('100ms', 'green')).toEqual([
      expect.objectContaining({
        severity: 'warning',
        message: expect.stringMatching(/promote.maxHold is 100ms: it may never go through/) as string,
      }),
    ]);
  });
});
