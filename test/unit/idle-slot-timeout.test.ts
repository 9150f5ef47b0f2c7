import { expect, it } from 'vitest';
import { planSchema } from '../../src/plan/schema.js';
import type { SideContext } from '../../src/postgres/preflight/check.js';
import { walRetention } from '../../src/postgres/preflight/server.js';

it('a limit of idle slots is told with its unit, and with what it does to a copy that takes longer', async () => {
  const rows = [{ name: 'idle_replication_slot_timeout', value: '21600' }];
  const told = async (side: 'blue' | 'green', method: 'copy' | 'tablesync'): Promise<string | undefined> => {
    const plan = planSchema.parse({
      name: 'idle',
      blue: { connection: 'b' },
      green: { connection: 'g' },
      bootstrap: { method },
    });
    const context = { side, plan, session: { query: () => Promise.resolve({ rows }) } };
    return (await walRetention.run(context as unknown as SideContext))[0]?.message;
  };
  expect(await told('blue', 'copy')).toMatch(
    /not used for 21600 s: those of the copy are not read before green follows/,
  );
  expect(await told('blue', 'tablesync')).toMatch(/21600 s: a pause of the run could lose it/);
  expect(await told('green', 'copy')).toMatch(/a pause of the run could lose it/);
});
