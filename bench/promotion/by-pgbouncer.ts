import { makeScratchFolder, removeScratchFolder } from '../../src/embedded/scratch-folder.js';
import { findPgBouncer, startPgBouncer } from '../../src/embedded/pgbouncer.js';
import { poolsBefore } from '../../src/pgbouncer/from-plan.js';
import { literal } from '../../src/postgres/identifier.js';
import type { Pools } from '../../src/postgres/pools.js';
import type { Side } from '../../src/side.js';
import { NotMeasured } from '../data/bench.js';
import { findProgram } from '../data/program.js';
import { withClient } from '../data/servers.js';
import { caughtUp, follow, moveByVerdigris } from './by-verdigris.js';
import { now } from './clock.js';
import type { Bench } from './contest.js';
import { measure } from './measure.js';
import type { Move } from './move.js';
import { checkpoint, createPair } from './pair.js';
import { startPgbench } from './pgbench-load.js';
import type { Measured } from './result.js';
import { SHOP_ROLE } from './shop.js';

/* Verdigris moves, and the application is pgbench, which knows nothing of it: a PgBouncer stands between. */

const CLIENTS = 50;
/** Connections of the PgBouncer to each side: as many as the application has with a router. */
const POOL_SIZE = 20;
/** The plan's default. */
const PAUSE_TIMEOUT_MS = 1_000;
const ADMIN = 'pooler_admin';

export async function contestPgBouncer(bench: Bench): Promise<Measured> {
  const { servers, options, lifeCycle, signal } = bench;
  const program = findProgram('pgbench', 15);
  if (findPgBouncer() === undefined) throw new NotMeasured('there is no program pgbouncer (apt-get install pgbouncer)');
  if (program === undefined) throw new NotMeasured('there is no program pgbench (apt-get install postgresql-contrib)');

  const migration = 'bench-pgbouncer';
  const pair = await createPair(servers, 'pgbouncer');
  await follow(pair.databases, migration, signal);
  await checkpoint(servers);
  const folder = makeScratchFolder('bench-pgbench');
  lifeCycle.keep("Folder of pgbench's journal", { stop: () => Promise.resolve(removeScratchFolder(folder)) });
  const { password } = servers.blue;
  for (const server of [servers.blue, servers.green]) {
    // The preflight of the poolers looks through them at both servers.
    await withClient(server.uri(), (client) =>
      client.query(`CREATE ROLE ${ADMIN} LOGIN PASSWORD ${literal(password)}`),
    );
  }
  const where = (side: Side): string => `host=127.0.0.1 port=${servers[side].port} dbname=${pair.name}`;
  const pooler = await lifeCycle.start('PgBouncer', () =>
    startPgBouncer({
      databases: `shop = ${where('blue')}\nshop_blue = ${where('blue')}\nshop_green = ${where('green')}\n`,
      users: { [SHOP_ROLE]: password, [ADMIN]: password },
      adminUsers: [ADMIN],
      settings: { default_pool_size: String(POOL_SIZE) },
    }),
  );
  const config = { host: '127.0.0.1', port: pooler.port, user: ADMIN, password };
  const setup = {
    ...{ migration, databases: ['shop'], aliases: { blue: 'shop_blue', green: 'shop_green' } },
    instances: [{ connection: 'pgbouncer', config, file: pooler.file }],
    pauseTimeoutMs: PAUSE_TIMEOUT_MS,
  };
  const load = startPgbench({
    ...{ program, folder, port: pooler.port, user: SHOP_ROLE, password, database: 'shop' },
    ...{ clients: CLIENTS, perSecond: options.tps },
  });
  lifeCycle.keep('pgbench', load);
  try {
    return await measure({
      ...{ ...bench, contestant: 'pgbouncer', pair },
      mover: async (from) => {
        const pools = new TimedPools(poolsBefore(setup, pair.databases));
        try {
          return pools.timed(await moveByVerdigris(pair.databases, migration, from, signal, pools));
        } finally {
          await pools.close();
        }
      },
      finish: () => load.finish(),
      settled: (primary) => caughtUp(pair.databases, primary, signal),
    });
  } finally {
    await load.stop();
  }
}

/** Clients wait from the PAUSE until the RESUME: that is the hold here. */
class TimedPools implements Pools {
  #paused = 0;
  #lastPause = 0;
  #released = 0;

  constructor(private readonly pools: Pools) {}

  prepare: Pools['prepare'] = (from, epoch) => this.pools.prepare(from, epoch);
  point: Pools['point'] = (side, epoch) => this.pools.point(side, epoch);
  close: Pools['close'] = () => this.pools.close();

  pause: Pools['pause'] = async (from, epoch) => {
    this.#paused = now();
    await this.pools.pause(from, epoch);
    this.#lastPause = now() - this.#paused;
  };

  release: Pools['release'] = async () => {
    const unreleased = await this.pools.release();
    this.#released = now();
    return unreleased;
  };

  /** The hold from the last PAUSE to the RESUME, in place of that from the lock to the opening. */
  timed(move: Move): Move {
    const { pause, ...steps } = { pause: this.#lastPause, ...move.steps };
    const holdMs = this.#released - this.#paused;
    const rest = holdMs - pause - move.holdMs;
    return { ...move, holdMs, steps: { pause, ...steps, 'point and resume': rest } };
  }
}
