import type { LifeCycle } from '../../src/embedded/life-cycle.js';
import type { Servers } from '../data/servers.js';
import { ByHand } from './by-hand.js';
import { contestPgBouncer } from './by-pgbouncer.js';
import { caughtUp, follow, moveByVerdigris } from './by-verdigris.js';
import { startLoad } from './load.js';
import { measure } from './measure.js';
import type { Contestant, PromotionOptions } from './options.js';
import { checkpoint, createPair } from './pair.js';
import type { Measured } from './result.js';

/** What every contestant works with. */
export interface Bench {
  readonly options: PromotionOptions;
  readonly servers: Servers;
  readonly lifeCycle: LifeCycle;
  /** Aborted when the benchmark is asked to stop. */
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

/** Connections of the application to each side. */
const CONNECTIONS = 20;

export const CONTEST: Readonly<Record<Contestant, (bench: Bench) => Promise<Measured>>> = {
  router: contestRouter,
  pgbouncer: contestPgBouncer,
  manual: contestManual,
};

/** Verdigris moves, and the application uses `verdigris/router`. */
async function contestRouter(bench: Bench): Promise<Measured> {
  const { servers, options, lifeCycle, signal } = bench;
  const migration = 'bench-router';
  const pair = await createPair(servers, 'router');
  await follow(pair.databases, migration, signal);
  await checkpoint(servers);
  const load = await lifeCycle.start('The application, with verdigris/router', () =>
    startLoad({
      ...{ by: 'router', migration, connections: CONNECTIONS, perSecond: options.tps },
      uris: { blue: pair.applicationUri('blue'), green: pair.applicationUri('green') },
    }),
  );
  try {
    return await measure({
      ...{ ...bench, contestant: 'router', pair },
      mover: (from) => moveByVerdigris(pair.databases, migration, from, signal),
      finish: () => load.finish(),
      settled: (primary) => caughtUp(pair.databases, primary, signal),
    });
  } finally {
    await load.stop();
  }
}

/** A person moves, and the application has a pool that is pointed at the other side. */
async function contestManual(bench: Bench): Promise<Measured> {
  const { servers, options, lifeCycle, signal } = bench;
  const pair = await createPair(servers, 'manual');
  const hand = await ByHand.begin(pair.databases, signal);
  await checkpoint(servers);
  const load = await lifeCycle.start('The application, with a plain pool', () =>
    startLoad({
      ...{ by: 'pool', migration: '', connections: CONNECTIONS, perSecond: options.tps },
      uris: { blue: pair.applicationUri('blue'), green: pair.applicationUri('green') },
    }),
  );
  try {
    return await measure({
      ...{ ...bench, contestant: 'manual', pair },
      mover: (from) => hand.move(from, load, signal),
      finish: () => load.finish(),
      settled: (primary) => hand.waitForLag(primary, signal),
    });
  } finally {
    await load.stop();
    await hand.end();
  }
}
