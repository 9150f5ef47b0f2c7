import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { PooledPair } from '../support/pooled-pair.js';
import { poolerAdmin, poolerFindings } from '../support/pooler-preflight.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED the preflight of PgBouncer: pgbouncer is not installed\n');

describe.skipIf(!isThere)('the preflight of PgBouncer', () => {
  let pair: PooledPair;

  beforeAll(async () => {
    // A login that has failed keeps the next ones away for 15 s by default.
    pair = await PooledPair.create('pooled preflight', { poolers: 1, settings: { server_login_retry: '1' } });
  });

  afterAll(async () => pair.close());

  const findings = (more?: Parameters<typeof poolerFindings>[1]): Promise<string[]> => poolerFindings(pair, more);
  const admin = (...commands: string[]): Promise<void> => poolerAdmin(pair, ...commands);

  it('refuses a way to green that leads nowhere, or to blue, and a pause', async () => {
    const file = pair.poolers[0]?.file ?? '';
    const right = readFileSync(file, 'utf8');
    const blue = /^orders_blue = (.*)$/m.exec(right)?.[1] ?? '';
    for (const [entry, found] of [
      ['host=127.0.0.1 port=1 dbname=nowhere', ['error pgbouncer-reach']],
      [blue, ['error pgbouncer-entries', 'error pgbouncer-reach']],
    ] as const) {
      writeFileSync(file, right.replace(/^orders_green = .*$/m, `orders_green = ${entry}`));
      // A server that is not there takes its time to be found out: asked once.
      if (entry === blue) expect(await findings()).toContain('error pgbouncer-file');
      await admin('RELOAD');
      expect(await findings()).toEqual(found);
    }
    writeFileSync(file, right);
    await admin('RELOAD', 'PAUSE orders');
    // A server connection of the wrong entry may be there for a moment yet.
    await expect.poll(() => findings(), { timeout: 10_000 }).toEqual(['error pgbouncer-entries']);
    await admin('RESUME orders');
    expect(await findings()).toEqual([]);
  });
});
