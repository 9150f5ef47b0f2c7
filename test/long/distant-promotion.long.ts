import { expect, it } from 'vitest';
import { withSession, type Databases } from '../../src/postgres/session.js';
import { readRoute } from '../../src/postgres/state.js';
import { otherSide, type Side } from '../../src/side.js';
import { LinkProxy } from '../support/link-proxy.js';
import { PromotionRig } from '../support/promotion-rig.js';
import { STEPS } from '../support/promotion-steps.js';

/** Each way: a round trip of more than the 20 ms that a marker may take beside the distance. */
const ONE_WAY_MS = 12;

it('writes are moved by a worker that is far from green, and back by one that is far from both', async () => {
  const rig = await PromotionRig.create('far away');
  const links: LinkProxy[] = [];
  const databases: Record<string, unknown> = { ...rig.databases };
  try {
    for (const [side, from] of [
      ['green', 'blue'],
      ['blue', 'green'],
    ] as const) {
      const database = rig.databases[side];
      const link = await LinkProxy.start(database.config.port ?? 0);
      links.push(link);
      link.delay(ONE_WAY_MS);
      databases[side] = { ...database, config: { ...database.config, host: '127.0.0.1', port: link.port } };
      await moveFrom(rig, from, databases as unknown as Databases);
    }
  } finally {
    await rig.close();
    for (const link of links) await link.close();
  }
}, 180_000);

async function moveFrom(rig: PromotionRig, from: Side, databases: Databases): Promise<void> {
  const move = { ...rig.move(from), databases };
  await STEPS.promote(move);
  await STEPS.finish(move);
  rig.primary = otherSide(from);
  const route = await withSession(rig.databases[from], { purpose: 'test' }, (session) =>
    readRoute(session, move.migration),
  );
  expect(route?.writesOn).toBe(rig.primary);
  await rig.audit();
}
