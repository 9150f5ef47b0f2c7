import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { replicateActivities } from '../../activities/replicate.js';
import { standbyBootstrapActivities } from '../../activities/standby-bootstrap.js';
import { trafficActivities } from '../../activities/traffic.js';
import type { EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { followBlue } from '../../src/postgres/bootstrap/standby/follow-blue.js';
import { awaitReplay, prepareSlots } from '../../src/postgres/bootstrap/standby/prepare-blue.js';
import { promoteStandby } from '../../src/postgres/bootstrap/standby/promote-standby.js';
import type { StandbyRun } from '../../src/postgres/bootstrap/standby/standby-run.js';
import { takeOverGreen } from '../../src/postgres/bootstrap/standby/take-over.js';
import { measureLag } from '../../src/postgres/marker.js';
import { claimBlue } from '../../src/postgres/ownership.js';
import { closeSession, openSession, withSession, type Session } from '../../src/postgres/session.js';
import { readOwner, readRoute } from '../../src/postgres/state.js';
import { ensurePublications, streamNames } from '../../src/postgres/streams.js';
import type { Side } from '../../src/side.js';
import { ShopLoad } from '../support/shop-load.js';
import { StatementProxy } from '../support/statement-proxy.js';
import {
  contents,
  databaseOf,
  onServer,
  refOf,
  standbyIsPromoted,
  StandbyCluster,
  TABLES,
} from '../support/standby-cluster.js';

let cluster: StandbyCluster;
let first: EmbeddedPostgres;

beforeAll(async () => {
  cluster = await StandbyCluster.start([undefined]);
  [first] = cluster.standbys as [EmbeddedPostgres];
});
afterAll(() => cluster.stop());

class Killed extends Error {}

/** Where processes have died so far: after which statements. */
class Deaths {
  readonly #after = new Set<string>();
  #seen = new Map<string, number>();
  dead = false;

  get count(): number {
    return this.#after.size;
  }

  /** A new process, which dies after the first statement after which none has died yet. */
  begin(): void {
    this.dead = false;
    this.#seen = new Map();
  }

  /** A statement that is sent again and again, such as the one of a loop that waits, counts twice. */
  ran(text: string): void {
    // What has a name of its own each time is the same statement.
    const statement = text.replaceAll(/verdigris_secret_[0-9a-f]+/g, 'verdigris_secret_#');
    const times = (this.#seen.get(statement) ?? 0) + 1;
    this.#seen.set(statement, times);
    const where = `${statement} ${Math.min(times, 2)}`;
    this.dead = !this.#after.has(where);
    this.#after.add(where);
  }
}

/**
 * The session of a process: once it is dead, it does nothing any more. The session itself, since others are opened beside
 * it: what they do, such as a slot, is there when the next statement of this one has run.
 */
function mortal(session: Session, side: Side, deaths: Deaths): Session {
  const query = session.query.bind(session) as (text: string, values?: unknown[]) => Promise<unknown>;
  return Object.assign(session, {
    query: async (text: string, values?: unknown[]) => {
      if (deaths.dead) throw new Killed();
      const result = await query(text, values);
      deaths.ran(`${side}: ${text}`);
      if (deaths.dead) throw new Killed();
      return result;
    },
  });
}

/** The whole bootstrap in one process. @returns the position, or undefined when it died. */
async function tryBootstrap(green: EmbeddedPostgres, migration: string, deaths: Deaths): Promise<string | undefined> {
  deaths.begin();
  const sessions = [
    await openSession(databaseOf(cluster.blue, 'blue'), { purpose: 'test' }),
    await openSession(databaseOf(green, 'green'), { purpose: 'test' }),
  ] as const;
  const roots = TABLES.map((name) => ({ schema: 'public', name }));
  const standby: StandbyRun = {
    run: { runId: 'run-1', migration },
    blue: mortal(sessions[0], 'blue', deaths),
    green: mortal(sessions[1], 'green', deaths),
    tables: roots,
    streams: streamNames(migration, 'to_green', 2),
    maxRetainedWal: 2 ** 40,
    signal: new AbortController().signal,
    report: () => undefined,
  };
  try {
    await ensurePublications(standby.blue, {
      migration,
      direction: 'to_green',
      tables: roots.map((table) => ({ table })),
      streams: 2,
    });
    await prepareSlots(standby);
    await awaitReplay(standby);
    await promoteStandby(standby);
    const { position } = await takeOverGreen(standby);
    await followBlue(standby, position, databaseOf(cluster.blue, 'blue'));
    return position;
  } catch (error) {
    if (error instanceof Killed) return undefined;
    throw error;
  } finally {
    await Promise.all(sessions.map(closeSession));
  }
}

describe('bootstrap standby', () => {
  it('leaves green a standby when its worker was frozen before the request, and wakes up after the rollback', async () => {
    const ref = refOf('frozen');
    await cluster.activity(first, (d) => replicateActivities(d).claimDatabases(ref));
    await cluster.activity(first, (d) => standbyBootstrapActivities(d).prepareStandby(ref));
    const proxy = await StatementProxy.start(first.port);
    try {
      const environment = {
        VERDIGRIS_CONNECTION_BLUE: cluster.blue.uri('shop'),
        VERDIGRIS_CONNECTION_GREEN: first.uri('shop').replace(`:${first.port}/`, `:${proxy.port}/`),
      };
      const asking = proxy.stopWhere(({ text }) => text.includes('pg_promote'), 'before');
      const { promoteStandby: promote } = standbyBootstrapActivities({ environment, redact: (text) => text });
      const frozen = new MockActivityEnvironment().run(() => promote(ref)).catch((error: unknown) => error);
      const held = await asking;
      const settled = await cluster.activity(first, (d) => standbyBootstrapActivities(d).settleStandby(ref));
      expect(settled.notUndone).toEqual([expect.stringMatching(/^green was asked to promote and is a standby still/)]);
      await cluster.release(first, ref);
      held.release();
      await sleep(2_000);
      expect(await standbyIsPromoted(first)).toBe(false);
      expect(await frozen).toBeInstanceOf(Error);
      expect(await onServer(first, 'SHOW default_transaction_read_only')).toEqual([
        { default_transaction_read_only: 'off' },
      ]);
    } finally {
      await proxy.close();
    }
  });

  it('loses and doubles no row under load, killed after every statement, with a crash of green after its promotion', async () => {
    const migration = 'killed';
    const run = { runId: 'run-1', migration };
    const epoch = await claimBlue(
      { blue: databaseOf(cluster.blue, 'blue'), green: databaseOf(first, 'green') },
      run,
      'flag',
      { streams: 2 },
    );
    const reader = new pg.Client(first.uri('shop'));
    reader.on('error', () => undefined);
    await reader.connect();
    await reader.query('SELECT 1');
    const load = new ShopLoad(cluster.blue);
    const straddling = new pg.Client(cluster.blue.uri('shop'));
    await straddling.connect();

    let position: string | undefined;
    let crashedAt: string | null | undefined;
    let begun = false;
    const deaths = new Deaths();
    while (position === undefined) {
      position = await tryBootstrap(first, migration, deaths);
      if (!begun && (await cluster.logicalSlots()).length === 2) {
        begun = true;
        // Open while green leaves blue's WAL: a transaction, two prepared ones, and their rows have been replayed.
        await straddling.query(
          `BEGIN; UPDATE notes SET body = 'straddles' WHERE id = 1; INSERT INTO notes VALUES (10, 'straddles')`,
        );
        await onServer(
          cluster.blue,
          `BEGIN; UPDATE notes SET body = 'prepared' WHERE id = 2; PREPARE TRANSACTION 'kept'`,
        );
        await onServer(
          cluster.blue,
          `BEGIN; UPDATE notes SET body = 'given up' WHERE id = 3; PREPARE TRANSACTION 'undone'`,
        );
        await cluster.replayed(first);
      }
      if (crashedAt === undefined && (await standbyIsPromoted(first))) {
        await expect(reader.query(`INSERT INTO notes VALUES (99, 'strayed')`)).rejects.toMatchObject({ code: '25006' });
        // WAL of green's own, as a checkpoint or autovacuum would write it: the crash recovery ends far behind it.
        await onServer(first, `SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)), pg_switch_wal()`);
        first.kill('SIGKILL', 'all');
        await first.restart();
        crashedAt = (await onServer<{ lsn: string | null }>(first, 'SELECT pg_last_wal_replay_lsn()::text AS lsn'))[0]
          ?.lsn;
      }
    }
    await reader.end().catch(() => undefined);
    await straddling.query('COMMIT');
    await straddling.end();
    await onServer(cluster.blue, `COMMIT PREPARED 'kept'`);
    await onServer(cluster.blue, `ROLLBACK PREPARED 'undone'`);
    await load.stop();
    expect(deaths.count).toBeGreaterThan(40);
    expect(load.transactions).toBeGreaterThan(200);
    // What the server says of its last replay is wrong after a crash: the position was read from the timeline.
    expect(crashedAt).not.toBe(position);

    await withSession(databaseOf(cluster.blue, 'blue'), { purpose: 'test' }, (blue) =>
      withSession(databaseOf(first, 'green'), { purpose: 'test' }, async (green) => {
        expect(await measureLag(blue, green, 'to_green', 20_000)).toBeLessThan(20_000);
        expect(await readOwner(green)).toMatchObject({ runId: 'run-1', side: 'green', outcome: null, streams: 2 });
        expect(await readRoute(green, migration)).toMatchObject({ epoch, writesOn: 'blue' });
      }),
    );
    expect(await contents(first)).toEqual(await contents(cluster.blue));
    expect(await onServer(first, `SELECT body FROM notes WHERE id IN (1, 2, 3, 10) ORDER BY id`)).toEqual(
      ['straddles', 'prepared', 'before', 'straddles'].map((body) => ({ body })),
    );
    expect(await onServer(first, 'SELECT FROM pg_publication')).toEqual([]);
    expect(await onServer(first, 'SELECT FROM pg_prepared_xacts')).toEqual([]);
    expect(await onServer(first, 'SELECT FROM pg_subscription WHERE subenabled')).toHaveLength(2);
    expect(
      await onServer(first, 'SELECT sum(apply_error_count)::int AS errors FROM pg_stat_subscription_stats'),
    ).toEqual([{ errors: 0 }]);
    // Another run of the same finds nothing to do, and moves nothing back.
    expect(await tryBootstrap(first, migration, deaths)).toBe(position);

    await cluster.activity(first, (d) => trafficActivities(d).fenceGreen(refOf(migration)));
    await expect(onServer(first, `INSERT INTO notes VALUES (98, 'strayed')`)).rejects.toThrow(
      /writes on green are closed/,
    );
    await onServer(cluster.blue, `UPDATE notes SET body = 'goes on' WHERE id = 1`);
    await expect.poll(() => onServer(first, `SELECT FROM notes WHERE body = 'goes on'`)).toHaveLength(1);
    await cluster.release(first, refOf('killed'));
  });
});
