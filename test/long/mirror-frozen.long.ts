import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Router, RouterOptions } from '../../src/router/index.js';
import { metric, Sides, until } from '../router/sides.js';

let sides: Sides;

beforeAll(async () => {
  sides = await Sides.create('mirror');
  await sides.sql('blue', 'INSERT INTO item SELECT g, g FROM generate_series(1, 20) g');
  await sides.replicate();
  await sides.claim();
});

afterAll(() => sides.drop());

const logger = { debug: () => undefined, info: () => undefined, warn: () => undefined };

async function mirroring(options: Partial<RouterOptions>): Promise<Router> {
  const router = await sides.router({ logger, ...options });
  await until(() => router.route().epoch > 0);
  return router;
}

async function outcomes(router: Router, outcome: string): Promise<number> {
  return metric(router, 'verdigris_router_mirrored_reads_total', { outcome });
}

async function judged(router: Router, reads: number): Promise<void> {
  await until(async () => (await metric(router, 'verdigris_router_mirrored_reads_total')) >= reads, 10_000);
}

const ALL = 'SELECT id, value FROM item ORDER BY id';

test('a green that freezes keeps no slot, and close() does not wait for it', async () => {
  const name = 'router of the frozen green';
  const router = await mirroring({
    mirror: { share: 1, concurrency: 1 },
    green: { ...sides.green.config, application_name: name },
  });
  const frozen = new Set<number>();
  /** Its link is left alone where it is only the mirror that is frozen. */
  const freeze = async (last: string): Promise<void> => {
    const text = 'SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND query LIKE $2';
    for (const { pid } of await sides.sql<{ pid: number }>('green', text, [name, last])) {
      process.kill(pid, 'SIGSTOP');
      frozen.add(pid);
    }
  };
  try {
    await router.read('u', ALL);
    await judged(router, 1);
    await freeze('ROLLBACK%');
    await router.read('u', ALL);
    await judged(router, 2);
    expect(await outcomes(router, 'skipped')).toBe(1);
    await router.read('u', ALL);
    await judged(router, 3);
    expect(await outcomes(router, 'same')).toBe(2);
    await freeze('%');
    await router.read('u', ALL);
    const started = performance.now();
    await router.close();
    expect(performance.now() - started).toBeLessThan(2_000);
  } finally {
    for (const pid of frozen) process.kill(pid, 'SIGCONT');
  }
});
