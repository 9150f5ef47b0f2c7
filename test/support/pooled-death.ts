import type { PooledPair } from './pooled-pair.js';
import { PromotionActor } from './promotion-actor.js';
import { StatementProxy, type Point, type When } from './statement-proxy.js';

/** A point of a move at which its worker dies. */
export interface Death {
  readonly name: string;
  /** Where the statement goes: to the admin console of the first PgBouncer, or to blue. */
  readonly at: 'console' | 'blue';
  readonly point: (point: Point) => boolean;
  readonly when: When;
}

export const DEATHS: readonly Death[] = [
  { name: 'PAUSE is about to be sent', at: 'console', point: startsWith('PAUSE'), when: 'before' },
  { name: 'one PgBouncer is paused', at: 'console', point: startsWith('PAUSE'), when: 'after' },
  {
    name: 'writers are locked out',
    at: 'blue',
    point: ({ text }) => text.includes('pg_advisory_xact_lock('),
    when: 'after',
  },
  { name: 'it has been decided', at: 'blue', point: ({ text }) => /setval\(.*; COMMIT$/.test(text), when: 'after' },
  { name: 'RELOAD is about to lead to green', at: 'console', point: nth('RELOAD', 3), when: 'before' },
  { name: 'RELOAD leads to green', at: 'console', point: nth('RELOAD', 3), when: 'after' },
  { name: 'RESUME is about to be sent', at: 'console', point: startsWith('RESUME'), when: 'before' },
  { name: 'one PgBouncer has been resumed', at: 'console', point: startsWith('RESUME'), when: 'after' },
  { name: 'the last RELOAD has settled it', at: 'console', point: nth('RELOAD', 4), when: 'after' },
];

function startsWith(command: string): Death['point'] {
  return ({ text }) => text.startsWith(command);
}

/** The first two show before the pause that what is written is loaded; the third leads to the new side. */
function nth(command: string, n: number): Death['point'] {
  return (point) => point.text === command && point.nth === n;
}

/** A worker process moves the writes away from blue, and dies, or is frozen, at a point. */
export async function stopWorkerAt(
  pair: PooledPair,
  death: Death,
): Promise<{
  readonly outcome: string;
  readonly actor: PromotionActor;
  readonly ended: Promise<string>;
  release(): void;
  close(): Promise<void>;
}> {
  const consoles = await Promise.all(pair.poolers.map(({ port }) => StatementProxy.start(port)));
  const actor = await PromotionActor.start(pair.databases);
  const [first] = consoles;
  if (first === undefined) throw new Error('there is no PgBouncer');
  const held =
    death.at === 'console'
      ? first.stopWhere(death.point, death.when)
      : actor.stopWhere('blue', death.point, death.when);
  const instances = pair.setup.instances.map((one, i) => ({
    ...one,
    config: { ...one.config, port: consoles[i]?.port ?? 0 },
  }));
  const outcome = actor.run('promote', pair.move('blue', { ...pair.setup, instances }));
  const met = await Promise.race([held, outcome]);
  return {
    outcome: typeof met === 'string' ? met : 'stopped there',
    actor,
    ended: outcome,
    release: () => (typeof met === 'string' ? undefined : met.release()),
    close: async () => {
      await actor.kill();
      await Promise.all(consoles.map((proxy) => proxy.close()));
    },
  };
}

/** The worker is killed at the point, without a chance to say goodbye. */
export async function killWorkerAt(pair: PooledPair, death: Death): Promise<{ readonly outcome: string }> {
  const { outcome, close } = await stopWorkerAt(pair, death);
  await close();
  return { outcome: outcome === 'stopped there' ? 'killed there' : outcome };
}
