import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createRouter, type Router } from '../../src/router/index.js';
import { otherSide, type Side } from '../../src/side.js';
import { recordOutcome } from '../support/outcome-table.js';
import { PromotionRig } from '../support/promotion-rig.js';
import { STEPS } from '../support/promotion-steps.js';

/*
 * What an application, a person or another tool may have going on in a database when a promotion is tried. It is promoted
 * after all, or refused with who stood in the way; then writers have gone on, and it is promoted once that is over.
 */

const APPLICATION = 'forgotten shell';

/** Everything that people need to find whoever stands in the way. */
const NAMED = (pid: number): RegExp =>
  new RegExp(
    `pid ${pid} \\(${APPLICATION}, .*client 127\\.0\\.0\\.1.*transaction \\d+\\.\\d s old.*last statement: \\w+`,
  );

describe('a promotion meets', () => {
  let rig: PromotionRig;
  let point = '';
  const open: { close(): Promise<unknown> }[] = [];

  beforeAll(async () => {
    rig = await PromotionRig.create('database faults');
    // There and back once: what is made once is made.
    await rig.moveOn();
    await rig.moveOn();
  }, 120_000);

  afterEach(async ({ task }) => {
    for (const one of open.splice(0).reverse()) await one.close();
    const outcome = task.result?.state === 'fail' ? 'wrong' : point;
    recordOutcome({ fault: task.name, point: 'promotion', outcome, seconds: (task.result?.duration ?? 0) / 1_000 });
    process.stdout.write(`${task.name}: ${outcome}\n`);
    point = '';
  });

  afterAll(() => rig.close());

  async function shell(side: Side): Promise<{ client: pg.Client; pid: number }> {
    const client = new pg.Client({ ...rig.databases[side].config, application_name: APPLICATION });
    client.on('error', () => undefined);
    await client.connect();
    open.push({ close: () => client.end() });
    const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    return { client, pid: rows[0]?.pid ?? 0 };
  }

  /** One promotion as an activity does it. @returns undefined, or why it was refused. */
  async function tried(): Promise<string | undefined> {
    try {
      await STEPS.promote(rig.move(rig.primary));
    } catch (error) {
      expect(error).toMatchObject({ type: 'PromotionBlocked' });
      return (error as Error).message;
    }
    await rig.moveOn(['finish']);
    return undefined;
  }

  async function refusedNaming(...named: RegExp[]): Promise<void> {
    const acknowledged = rig.writers.acknowledged;
    const why = await tried();
    for (const one of named) expect(why).toMatch(one);
    await expect.poll(() => rig.writers.acknowledged, { timeout: 10_000 }).toBeGreaterThan(acknowledged + 10);
    await rig.audit();
  }

  async function promoted(): Promise<void> {
    const from = rig.primary;
    expect(await tried()).toBeUndefined();
    expect(rig.primary).toBe(otherSide(from));
    await rig.audit();
  }

  it('a transaction that has written and is long open', { timeout: 600_000 }, async () => {
    const { client, pid } = await shell(rig.primary);
    // Of what no writer waits for: only the promotion does.
    await client.query('BEGIN; INSERT INTO public.upserts VALUES (1000, 0)');
    await sleep(5_300);
    await refusedNaming(NAMED(pid));
    await client.query('ROLLBACK');
    await promoted();
    point = 'refused with its pid, then promoted';
  });

  it('a session that is idle in a transaction in which it has written', { timeout: 600_000 }, async () => {
    const { client, pid } = await shell(rig.primary);
    await client.query('BEGIN; INSERT INTO public.upserts VALUES (1000, 0)');
    await refusedNaming(NAMED(pid), /idle in transaction/);
    await client.query('ROLLBACK');
    await promoted();
    point = 'refused with its pid, then promoted';
  });

  it('a transaction that ends while it is tried', { timeout: 600_000 }, async () => {
    const { client } = await shell(rig.primary);
    await client.query('BEGIN; INSERT INTO public.upserts VALUES (1000, 0)');
    const ending = sleep(700).then(() => client.query('ROLLBACK'));
    await promoted();
    await ending;
    point = 'promoted in a later try';
  });

  it('sessions that are idle in a transaction in which they have read', { timeout: 600_000 }, async () => {
    for (const side of ['blue', 'green'] as const) {
      const { client } = await shell(side);
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM public.accounts');
    }
    await promoted();
    point = 'promoted';
  });

  it.each(['old', 'new'] as const)('a lock queue on the %s side', { timeout: 600_000 }, async (which) => {
    const side = which === 'old' ? rig.primary : otherSide(rig.primary);
    const reader = await shell(side);
    const waiter = await shell(side);
    await reader.client.query('BEGIN; SELECT count(*) FROM public.counters');
    const locked = waiter.client.query('BEGIN; LOCK TABLE public.counters IN ACCESS EXCLUSIVE MODE; ROLLBACK');
    await sleep(200);
    locked.catch(() => undefined);
    // Long enough for a try to give up by itself; what follows a decision waits for its end.
    const trying = tried();
    await Promise.race([trying, sleep(15_000)]);
    await reader.client.query('COMMIT');
    await locked;
    const why = await trying;
    if (why !== undefined) {
      expect(why).toMatch(/pid \d+ \(/);
      expect(await tried()).toBeUndefined();
    }
    await rig.audit();
    point = why === undefined ? 'promoted' : 'refused with a pid, then promoted';
  });

  async function ownRouter(options: string): Promise<Router> {
    const pool = (side: Side): pg.PoolConfig => ({ ...rig.databases[side].config, max: 4, options });
    const router = createRouter({
      ...{ migration: rig.move('blue').migration, blue: pool('blue'), green: pool('green'), writeTimeoutMs: 30_000 },
    });
    await router.ready();
    open.push(router);
    return router;
  }

  it('transactions that wait for each other across its lock', { timeout: 600_000 }, async () => {
    const router = await ownRouter('-c deadlock_timeout=1s');
    const errors: unknown[] = [];
    let running = true;
    const loop = async (work: () => Promise<unknown>): Promise<void> => {
      while (running) await work().catch((error: unknown) => errors.push(error));
    };
    const touch = 'UPDATE public.accounts SET balance = balance WHERE id = $1';
    const loops = [
      // Has the row before it comes to the fence, where it waits behind the promotion ...
      loop(() =>
        router.transaction(undefined, {}, async (tx) => {
          await tx.query('SELECT FROM public.accounts WHERE id = 7 FOR UPDATE');
          await sleep(10);
          await tx.query(touch, [7]);
        }),
      ),
      // ... which waits for this one, which waits for the row.
      loop(() =>
        router.transaction(undefined, {}, async (tx) => {
          await tx.query('INSERT INTO public.upserts VALUES (1001, 0) ON CONFLICT (id) DO NOTHING');
          await sleep(5);
          await tx.query(touch, [7]);
        }),
      ),
    ];
    await sleep(300);
    let tries = 1;
    while ((await tried()) !== undefined) expect(++tries).toBeLessThan(6);
    running = false;
    await Promise.all(loops);
    expect(errors).toEqual([]);
    await rig.audit();
    point = 'promoted, no deadlock seen by anybody';
  });

  it('an application with a lock_timeout below the hold', { timeout: 600_000 }, async () => {
    const router = await ownRouter('-c lock_timeout=3ms');
    const errors: unknown[] = [];
    let running = true;
    let done = 0;
    const loops = Array.from({ length: 4 }, async (_, n) => {
      for (; running; await sleep(2)) {
        await router
          .write(undefined, 'UPDATE public.accounts SET balance = balance WHERE id = $1', [90 + n])
          .then(() => done++)
          .catch((error: unknown) => errors.push(error));
      }
    });
    await sleep(300);
    let tries = 1;
    while ((await tried()) !== undefined) expect(++tries).toBeLessThan(6);
    const before = done;
    await expect.poll(() => done, { timeout: 10_000 }).toBeGreaterThan(before + 20);
    running = false;
    await Promise.all(loops);
    // The router asks again until the hold is over; one that waits for another writer's row is told so, as ever.
    expect(errors.filter((error) => !(error instanceof pg.DatabaseError && error.code === '55P03'))).toEqual([]);
    expect(errors.filter((error) => error instanceof pg.DatabaseError && error.where?.includes('fence_check'))).toEqual(
      [],
    );
    await rig.audit();
    point = `promoted; ${errors.length} writes were told 55P03 of ${done + errors.length}, none of them at the fence`;
  });

  it.each(['old', 'new'] as const)('a prepared transaction on the %s side', { timeout: 600_000 }, async (which) => {
    const side = which === 'old' ? rig.primary : otherSide(rig.primary);
    const { client } = await shell(side);
    // A table of its own: on the new side a row of the moved ones would be refused by the fence.
    await client.query('CREATE TABLE IF NOT EXISTS public.elsewhere (id int)');
    await client.query("BEGIN; INSERT INTO public.elsewhere VALUES (1); PREPARE TRANSACTION 'left behind'");
    // A young one ends like any writer.
    await sleep(5_500);
    await refusedNaming(/prepared transaction left behind/);
    await client.query("ROLLBACK PREPARED 'left behind'");
    await client.query('DROP TABLE public.elsewhere');
    await promoted();
    point = 'refused with its name, then promoted';
  });

  it('a sequence that runs hot', { timeout: 600_000 }, async () => {
    const { client } = await shell(rig.primary);
    const taken: string[] = [];
    let running = true;
    const loop = (async () => {
      while (running) {
        const { rows } = await client.query<{ id: string }>("SELECT nextval('public.entries_id_seq') AS id");
        taken.push(rows[0]?.id ?? '');
      }
    })();
    await sleep(200);
    const why = await tried();
    running = false;
    await loop;
    expect(why).toBeUndefined();
    await sleep(300);
    const { client: now } = await shell(rig.primary);
    const { rows } = await now.query('SELECT id FROM public.entries WHERE id = ANY ($1::bigint[])', [taken]);
    expect(rows).toEqual([]);
    await rig.audit();
    point = `promoted; none of ${taken.length} numbers that were taken meanwhile was given again`;
  });
});
