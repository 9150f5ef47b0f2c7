import { once } from 'node:events';
import { WorkflowFailedError } from '@temporalio/client';
import { afterEach, describe, expect, it } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { rollbackUpdate } from '../../workflows/messages.js';
import { FaultRun } from '../support/fault-run.js';
import { LEDGER_SCHEMA, LedgerApplication } from '../support/ledger-application.js';
import { leftovers, Migration, rowsOf, statusOf, until } from '../support/migration.js';
import type { TestDatabase } from '../support/postgres.js';
import { resetBefore } from '../support/reset.js';
import { followedBy, inShort, isSigned, WebhookReceiver, type ReceivedBody } from '../support/webhook-receiver.js';

const KEY = 'the key of this receiver';
const open: { close(): Promise<void> }[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

interface RouteSeen {
  readonly writes_on: string;
  readonly percent: number;
}

/** What blue says of the route at this moment. */
async function routeOn(database: TestDatabase): Promise<RouteSeen | undefined> {
  const [row] = await rowsOf<{ writes_on: string; percent: number }>(
    database,
    'SELECT writes_on, green_read_percent::float8 AS percent FROM verdigris.route',
  );
  return row;
}

async function receiver(): Promise<WebhookReceiver> {
  const started = await WebhookReceiver.start();
  open.push(started);
  return started;
}

/** Of a worker that calls it, signed. */
function withHook({ url }: WebhookReceiver): (own: Record<string, string>) => Record<string, string> {
  return (own) => ({ ...own, VERDIGRIS_CONNECTION_HOOK: url, VERDIGRIS_CONNECTION_HOOK_SECRET: KEY });
}

describe('a run behind webhooks', () => {
  it(
    'whose worker is killed when a call has been made and not yet noted sends the same call again, at each step there and back',
    { timeout: 420_000 },
    async () => {
      const hook = await receiver();
      const run = await FaultRun.create({
        purpose: 'webhooks',
        environment: { VERDIGRIS_CONNECTION_HOOK: hook.url, VERDIGRIS_CONNECTION_HOOK_SECRET: KEY },
        plan: {
          traffic: {
            stages: [{ percent: 100, for: '1s' }],
            gates: [{ metric: 'lag', max: '10s' }],
            approval: { before: [] },
            webhooks: [{ connection: 'hook', timeout: '20s', deadline: '2m' }],
          },
        },
      });
      open.push(run);
      const routes = new Map<string, RouteSeen | undefined>();
      const made = new EventTarget();
      const killed = new Set<string>();
      const strikes = ['stage', 'promoting', 'promoted', 'rolledBack'];
      hook.answer = async ({ body: { event } }) => {
        if (!strikes.includes(event) || killed.has(event)) return 200;
        killed.add(event);
        routes.set(event, await routeOn(run.own.blue));
        made.dispatchEvent(new Event(event));
        return 'hang';
      };
      const strike = async (event: string): Promise<void> => {
        if (!killed.has(event)) await once(made, event);
        await run.worker.kill();
        await run.replaceWorker();
      };
      await run.start();
      await strike('stage');
      await run.inTraffic();
      await strike('promoting');
      await strike('promoted');
      await run.inStandby();
      expect(await run.audit('green', 'follows')).toEqual([]);
      await run.rollBack();
      const ending = run.ended();
      await strike('rolledBack');
      const { outcome, report } = await ending;
      expect(outcome).toBe('rolledBack');
      expect(report?.rollingBack?.notUndone).toEqual([]);
      expect(await run.audit('blue', 'is not followed')).toEqual([]);

      // Asked while nothing had moved; told when it had.
      expect(routes.get('stage')).toEqual({ writes_on: 'blue', percent: 0 });
      expect(routes.get('promoting')).toEqual({ writes_on: 'blue', percent: 100 });
      expect(routes.get('promoted')?.writes_on).toBe('green');
      expect(hook.of('rolledBack')[0]?.body.writesOn).toBe('blue');
      for (const event of strikes) {
        const sent = hook.of(event);
        expect(sent.length, event).toBeGreaterThanOrEqual(2);
        expect(new Set(sent.map(({ key }) => key)).size, event).toBe(1);
        expect(new Set(sent.map(({ text }) => text)).size, event).toBe(1);
      }
      expect(hook.requests.every((request) => isSigned(request, KEY))).toBe(true);
      const order = hook.requests.map(({ body }) => body.generation);
      expect(order).toEqual([...order].sort((a, b) => a - b));
      const epochs = hook.requests.map(({ body }) => body.epoch);
      expect(Math.max(...epochs) - Math.min(...epochs)).toBe(2);
    },
  );

  it(
    'is rolled back at once while its receiver hangs; blue is as before, and the report says who was not told',
    { timeout: 240_000 },
    async () => {
      const hook = await receiver();
      const migration = await Migration.create({
        blue: 'pg15',
        green: 'pg18',
        purpose: 'webhooks',
        schema: LEDGER_SCHEMA,
        environment: withHook(hook),
        plan: {
          traffic: {
            stages: [{ percent: 50, for: '10m' }],
            gates: [{ metric: 'lag', max: '5s' }],
            approval: { before: [] },
            webhooks: [{ connection: 'hook', timeout: '1s', deadline: '4s' }],
          },
        },
      });
      open.push(migration);
      const application = await LedgerApplication.start(migration);
      const handle = await migration.start();
      await until(handle, 'in the stage', (s) => s.greenReadPercent === 50);
      expect(hook.events).toEqual(['stage']);
      hook.answer = () => 'hang';
      await handle.executeUpdate(rollbackUpdate, { args: [{ by: 'grace', reason: 'the test says so' }] });
      const error: unknown = await handle.result().catch((e: unknown) => e);
      await application.stop();
      expect(error).toBeInstanceOf(WorkflowFailedError);
      const { rollingBack, outcome } = await statusOf(handle);
      expect(outcome).toBe('failed');
      expect(rollingBack?.notUndone).toEqual([
        expect.stringMatching(/^webhooks lead to blue: hook has not been told rolledBack: no answer within 1 s/),
      ]);
      expect(rollingBack?.trafficBackMs).toBeLessThan(3_000);
      expect(hook.of('rolledBack').length).toBeGreaterThan(1);
      expect(application.failures).toEqual([]);
      expect(await application.audit(migration.blue)).toEqual({ lost: [], doubled: [], total: '0', odd: 0 });
      const own = /^relation (accounts|balances|entries|recent|entries_id_seq)$/;
      expect((await leftovers(migration.blue)).filter((what) => !own.test(what))).toEqual([]);
      expect(await leftovers(migration.green)).toEqual([]);
    },
  );
});

describe('a run behind webhooks that is reset to a point before its stages', () => {
  const inStage = async (): Promise<{ migration: Migration; followed: readonly ReceivedBody[] }> => {
    const hook = await receiver();
    const followed = followedBy(hook);
    const migration = await Migration.create({
      ...{ blue: 'pg15', green: 'pg18', purpose: 'webhooks reset', schema: LEDGER_SCHEMA },
      environment: withHook(hook),
      plan: {
        traffic: {
          stages: [
            { percent: 1, for: '0s' },
            { percent: 50, for: '10m' },
          ],
          gates: [{ metric: 'lag', max: '60s' }],
          approval: { before: [] },
          webhooks: [{ connection: 'hook', timeout: '2s' }],
        },
      },
    });
    open.push(migration);
    const handle = await migration.start();
    await until(handle, 'in the stage', (s) => s.greenReadPercent === 50);
    expect(inShort(followed)).toEqual(['stage 1', 'stage 50']);
    await resetBefore(handle, 'verify');
    return { migration, followed };
  };
  const rollBack = async ({ client, plan, blue }: Migration): Promise<void> => {
    const again = client.workflow.getHandle(`verdigris/${plan.name}`);
    await again.executeUpdate(rollbackUpdate, { args: [{ by: 'grace', reason: 'the test says so' }] });
    const { outcome, rollingBack } = (await again.result()) as MigrationReport;
    expect(outcome).toBe('rolledBack');
    expect(rollingBack?.notUndone).toEqual([]);
    const own = /^relation (accounts|balances|entries|recent|entries_id_seq)$/;
    expect((await leftovers(blue)).filter((what) => !own.test(what))).toEqual([]);
  };

  it('has them lead everything to blue when it is rolled back at once', { timeout: 240_000 }, async () => {
    const { migration, followed } = await inStage();
    await rollBack(migration);
    expect(followed.at(-1)).toMatchObject({ event: 'rolledBack', writesOn: 'blue', greenReadPercent: 0 });
  });

  it('has them follow each stage anew, and the way back', { timeout: 240_000 }, async () => {
    const { migration, followed } = await inStage();
    const again = migration.client.workflow.getHandle(`verdigris/${migration.plan.name}`);
    await until(again, 'in the stage', (s) => s.greenReadPercent === 50);
    expect(await routeOn(migration.blue)).toEqual({ writes_on: 'blue', percent: 50 });
    await rollBack(migration);
    const all = ['stage 1', 'stage 50', 'readsBack 0', 'stage 1', 'stage 50', 'rolledBack 0'];
    expect(inShort(followed)).toEqual(all);
  });
});
