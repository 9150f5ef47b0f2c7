import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { startPostgres } from '../src/embedded/postgres-server.js';
import { openSession, type Database, type Session } from '../src/postgres/session.js';
import { FENCE_CLOSED, FENCE_OPEN, installState } from '../src/postgres/state.js';
import { createRouter } from '../src/router/index.js';
import type { Side } from '../src/side.js';

/*
 * What it is worth that the new side has its connections before writes move there: the slowest write of the second
 * before a move and of the second with it, for pools that were told (`opening`) and for pools that were not. The move is
 * the route and the two fences alone, without replication, so that nothing else is measured.
 *
 *   npx tsx bench/router-warmth.ts [--rounds 5] [--writers 20]
 */

const rounds = option('--rounds', 5);
const writers = option('--writers', 20);

function option(name: string, otherwise: number): number {
  const at = process.argv.indexOf(name);
  return at === -1 ? otherwise : Number(process.argv[at + 1]);
}

type Sessions = Readonly<Record<Side, Session>>;

const ROUTE = `UPDATE verdigris.route SET opening = $1, generation = generation + 1`;

async function prepare(config: pg.ClientConfig, side: Side): Promise<Session> {
  const database: Database = { side, connection: side, config, peerConninfo: '' };
  const session = await openSession(database, { purpose: 'bench' });
  await installState(session, side);
  await session.query(`
    CREATE TABLE public.item (id bigint GENERATED ALWAYS AS IDENTITY, writer int NOT NULL);
    CREATE TRIGGER _verdigris_fence BEFORE INSERT OR UPDATE OR DELETE ON public.item
      FOR EACH STATEMENT EXECUTE FUNCTION verdigris.fence_check();
    INSERT INTO verdigris.route (migration) VALUES ('bench')`);
  return session;
}

async function reset({ blue, green }: Sessions): Promise<void> {
  for (const session of [blue, green]) {
    await session.query("UPDATE verdigris.route SET epoch = epoch + 10, writes_on = 'blue', opening = NULL");
  }
  await blue.query(`SELECT setval('verdigris.fence', ${FENCE_OPEN})`);
  await green.query(`SELECT setval('verdigris.fence', ${FENCE_CLOSED})`);
}

async function move({ blue, green }: Sessions): Promise<void> {
  await blue.query(`
    BEGIN;
    SELECT verdigris.decide('bench', (SELECT epoch FROM verdigris.route), 'green');
    SELECT setval('verdigris.fence', ${FENCE_CLOSED});
    COMMIT`);
  await green.query("SELECT verdigris.open_fence('bench', (SELECT epoch + 1 FROM verdigris.route))");
  await green.query('NOTIFY verdigris_route');
}

/** The slowest write, in ms, of the second before the move and of the one that begins with it. */
async function round(
  sessions: Sessions,
  pools: Record<Side, pg.PoolConfig>,
  isWarm: boolean,
): Promise<[number, number]> {
  await reset(sessions);
  const router = createRouter({ migration: 'bench', ...pools });
  await router.ready();
  const done: { at: number; ms: number }[] = [];
  let isOver = false;
  const writing = Array.from({ length: writers }, async (_, writer) => {
    while (!isOver) {
      const at = performance.now();
      await router.write(undefined, 'INSERT INTO public.item (writer) VALUES ($1)', [writer]);
      done.push({ at, ms: performance.now() - at });
      await sleep(5);
    }
  });
  await sleep(500);
  if (isWarm) await sessions.blue.query(ROUTE, ['green']);
  await sleep(1_500);
  const moved = performance.now();
  await move(sessions);
  await sleep(1_000);
  isOver = true;
  await Promise.all(writing);
  await router.close();
  const slowest = (from: number): number =>
    Math.max(...done.filter(({ at, ms }) => at + ms >= from && at < from + 1_000).map(({ ms }) => ms));
  return [slowest(moved - 1_000), slowest(moved)];
}

const server = await startPostgres({ version: 18, name: 'bench-warmth' });
try {
  const config = { host: '127.0.0.1', port: server.port, user: 'postgres', password: server.password };
  const admin = await openSession(
    { side: 'blue', connection: 'bench', config: { ...config, database: 'postgres' }, peerConninfo: '' },
    { purpose: 'bench' },
  );
  for (const side of ['blue', 'green']) await admin.query(`CREATE DATABASE ${side}`);
  await admin.end();
  const configs = { blue: { ...config, database: 'blue' }, green: { ...config, database: 'green' } };
  const sessions = { blue: await prepare(configs.blue, 'blue'), green: await prepare(configs.green, 'green') };
  const pools = { blue: { ...configs.blue, max: writers }, green: { ...configs.green, max: writers } };
  for (let n = 0; n < rounds; n++) {
    for (const isWarm of n % 2 === 0 ? [false, true] : [true, false]) {
      const [before, during] = await round(sessions, pools, isWarm);
      process.stdout.write(
        `${isWarm ? 'warm' : 'cold'}  slowest write: ${before.toFixed(0)} ms in the second before, ${during.toFixed(0)} ms in the second of the move\n`,
      );
    }
  }
  await Promise.all(Object.values(sessions).map((session) => session.end()));
} finally {
  await server.stop();
}
