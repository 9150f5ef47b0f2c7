import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readRoute } from '../../src/postgres/state.js';
import type { Side } from '../../src/side.js';
import { withClient } from './postgres.js';
import type { PromotionRig } from './promotion-rig.js';
import { carryOut } from './promotion-steps.js';
import { LOCKS_WRITERS_OUT, WatchedTry } from './watched-try.js';

/** Each writes without passing the fence, and can commit later. */
const PAST_THE_FENCE = [
  [
    'a table that is made and filled',
    ['CREATE TABLE public.notes_more (LIKE public.notes INCLUDING ALL)', 'INSERT INTO public.notes_more VALUES'],
  ],
  [
    'triggers that are off while it loads',
    [
      'ALTER TABLE public.notes DISABLE TRIGGER ALL',
      'INSERT INTO public.notes VALUES',
      'ALTER TABLE public.notes ENABLE ALWAYS TRIGGER _verdigris_fence',
      'ALTER TABLE public.notes ENABLE ALWAYS TRIGGER _verdigris_fence_truncate',
    ],
  ],
  [
    'a table that is swapped',
    [
      'CREATE TABLE public.notes_new (LIKE public.notes INCLUDING ALL)',
      'INSERT INTO public.notes_new VALUES',
      'ALTER TABLE public.notes RENAME TO notes_old',
      'ALTER TABLE public.notes_new RENAME TO notes',
    ],
  ],
] as const;

function routeOn(rig: PromotionRig, side: Side): ReturnType<typeof readRoute> {
  return rig.ours(side, (s) => readRoute(s, rig.move(side).migration));
}

/** The cases of transactions that could write past the fence, while writes go to where they are: ends with a move. */
export function transactionsPastTheFence(rig: () => PromotionRig, direction: 'one way' | 'the other way'): void {
  describe('transactions past the fence', () => triesBeside(rig, direction));
}

function triesBeside(rig: () => PromotionRig, direction: 'one way' | 'the other way'): void {
  let attempt: WatchedTry;

  beforeAll(async () => {
    attempt = await WatchedTry.prepare(rig());
  });

  afterAll(() => attempt.close());

  it.each(PAST_THE_FENCE)(`a transaction that passes no fence gives up the try: %s, ${direction}`, async (_, sql) => {
    const { from } = attempt;
    const locking = attempt.stopAt(LOCKS_WRITERS_OUT, 'before');
    const outcome = attempt.run();
    const held = await locking;
    await withClient({ ...rig().databases[from].config, application_name: 'loader' }, async (loader) => {
      await loader.query('BEGIN');
      const row = ' (gen_random_uuid())';
      for (const statement of sql) await loader.query(`${statement}${statement.endsWith('VALUES') ? row : ''}`);
      held.release();
      const message = expect.stringMatching(
        /a transaction that changes .*could write past the fence\. Changing: pid \d+ \(loader, /,
      );
      expect(await outcome).toMatchObject({ type: 'PromotionBlocked', message });
      await loader.query('ROLLBACK');
    });
    expect(await routeOn(rig(), from)).toMatchObject({ writesOn: from });
  });

  it(`a transaction that has written an altered table, and waits at the fence of another one, gives up the try, ${direction}`, async () => {
    const { from } = attempt;
    const locking = attempt.stopAt(LOCKS_WRITERS_OUT, 'after');
    const outcome = attempt.run();
    const held = await locking;
    await rig().on(from, async (loader) => {
      await loader.query('BEGIN; ALTER TABLE public.notes DISABLE TRIGGER ALL, ADD COLUMN z int');
      await loader.query('INSERT INTO public.notes VALUES (gen_random_uuid()); SAVEPOINT before');
      const refused = loader.query('UPDATE public.accounts SET balance = balance').catch(() => undefined);
      await sleep(50);
      held.release();
      const message = expect.stringMatching(
        /a transaction that changes .*notes.* could write past the fence/,
      ) as string;
      expect(await outcome).toMatchObject({ type: 'PromotionBlocked', message });
      await refused;
      await loader.query('ROLLBACK');
    });
    expect(await routeOn(rig(), from)).toMatchObject({ writesOn: from });
  });

  it(`a table that is made by a prepared transaction gives up the try, ${direction}`, async () => {
    const locking = attempt.stopAt(LOCKS_WRITERS_OUT, 'before');
    const outcome = attempt.run();
    const held = await locking;
    await rig().on(attempt.from, (client) =>
      client.query("BEGIN; CREATE TABLE public.later (id int); PREPARE TRANSACTION 'makes_later'"),
    );
    held.release();
    const message = expect.stringContaining('Changing: prepared transaction makes_later') as string;
    expect(await outcome).toMatchObject({ type: 'PromotionBlocked', message });
    await rig().on(attempt.from, (client) => client.query("ROLLBACK PREPARED 'makes_later'"));
  });

  it(`is not asked of writers while such a transaction lasts, ${direction}`, async () => {
    const { from } = attempt;
    let isAsked = false;
    const locking = attempt.stopAt(LOCKS_WRITERS_OUT, 'before').then((held) => {
      isAsked = true;
      held.release();
    });
    await rig().on(from, async (loader) => {
      await loader.query('BEGIN; CREATE TABLE public.later (id int)');
      const outcome = attempt.run();
      await sleep(1_500);
      expect(isAsked).toBe(false);
      await loader.query('ROLLBACK');
      await locking;
      expect(await outcome).toMatchObject({ epoch: expect.any(Number) as number });
    });
    await carryOut('finish', rig().move(from));
  });
}
