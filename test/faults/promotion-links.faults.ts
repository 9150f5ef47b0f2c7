import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { HOLD_POINTS, holdPoint, type HoldPoint } from '../support/hold-points.js';
import { inflict, type LinkFaultName } from '../support/link-faults.js';
import { LinkProxy } from '../support/link-proxy.js';
import { PromotionRig } from '../support/promotion-rig.js';
import { STEPS } from '../support/promotion-steps.js';
import { StatementProxy } from '../support/statement-proxy.js';
import { otherSide, type Side } from '../../src/side.js';

/* The quick part of test/faults/links.faults.ts: the worker loses a server exactly while writes wait. */

describe('a promotion whose worker loses a server in the hold', () => {
  let rig: PromotionRig;
  let statements: Readonly<Record<Side, StatementProxy>>;
  let links: Readonly<Record<Side, LinkProxy>>;

  beforeAll(async () => {
    rig = await PromotionRig.create('promotion links');
    const { blue, green } = rig.databases;
    statements = {
      blue: await StatementProxy.start(Number(blue.config.port)),
      green: await StatementProxy.start(Number(green.config.port)),
    };
    links = { blue: await LinkProxy.start(statements.blue.port), green: await LinkProxy.start(statements.green.port) };
  });

  afterAll(async () => {
    for (const side of ['blue', 'green'] as const) {
      await links[side].close();
      await statements[side].close();
    }
    await rig.close();
  });

  const [locked, , unknown] = HOLD_POINTS;

  it.each<['old' | 'new', LinkFaultName, HoldPoint]>([
    ['old', 'cut', locked],
    ['old', 'silent to the server', locked],
    ['old', 'cut', unknown],
    ['new', 'cut', unknown],
  ])('the %s side, %s when %s: it is ended, and every write is there once', async (which, fault, point) => {
    const from = rig.primary;
    const through = (side: Side): object => ({
      ...rig.databases[side],
      config: { ...rig.databases[side].config, port: links[side].port },
    });
    const databases = { ...rig.databases, blue: through('blue'), green: through('green') } as typeof rig.databases;
    const inHold = statements[from].stopWhere(...holdPoint(point));
    const outcome = STEPS.promote({ ...rig.move(from), databases }).then(
      () => 'promoted',
      (error: unknown) => (error instanceof Error ? error.message : String(error)),
    );
    const held = await Promise.race([inHold, outcome]);
    if (typeof held === 'string') throw new Error(`it did not come to its hold: ${held}`);
    const { over } = inflict([links[which === 'old' ? from : otherSide(from)]], fault);
    held.release();
    await Promise.all([over, outcome]);
    // Another worker, or the same, ends what was begun: nothing has happened, or it has been decided.
    await rig.moveOn();
    expect(rig.primary).toBe(otherSide(from));
    await rig.audit();
  });
});
