import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { MockActivityEnvironment } from '@temporalio/testing';
import pg from 'pg';
import { describe, expect, it, vi } from 'vitest';
import { alive } from '../../activities/context.js';
import { createActivities, type Activities } from '../../activities/index.js';
import { planSchema } from '../../src/plan/schema.js';
import type { Progress } from '../../src/postgres/migrate/step-context.js';
import { progressLine } from '../../src/progress.js';
import type { Environment } from '../../src/worker/connections.js';

const plan = planSchema.parse({ name: 'orders', blue: { connection: 'a' }, green: { connection: 'b' } });
const REF = { plan, runId: 'run-1' };
const RUN = { name: 'orders', workflowId: 'verdigris/orders', runId: 'run-1' };
const DEPENDENCIES = { environment: {}, redact: (text: string) => text };

/** A secret store that has nothing mounted. */
const UNREADABLE = '/nowhere/uri';

interface Ended {
  readonly failure: { readonly type?: string; readonly nonRetryable?: boolean; readonly message: string };
  /** What the workflow is told meanwhile. */
  readonly told: readonly (readonly string[])[];
}

/** What tells and answers as Temporal does; `type` and `message` are of the failure of the attempt before. */
function temporal(told: (readonly string[])[], type?: string, message = ''): Client {
  const started = { seconds: Math.floor(Date.now() / 1_000), nanos: 0 };
  const lastFailure = { message, applicationFailureInfo: { type } };
  const pending = { activityId: 'test', lastStartedTime: started, lastFailure };
  const handle = {
    describe: () => Promise.resolve({ historyLength: 100, raw: { pendingActivities: [pending] } }),
    signal: (_: unknown, progress: readonly Progress[]) => Promise.resolve(void told.push(progress.map(progressLine))),
  };
  return {
    withAbortSignal: (_: AbortSignal, work: () => Promise<unknown>) => work(),
    workflow: { getHandle: () => handle },
  } as unknown as Client;
}

/** How an activity ends that a worker with such an environment begins. */
async function ended(
  work: (activities: Activities) => Promise<unknown>,
  environment: Environment = {},
): Promise<Ended> {
  const told: (readonly string[])[] = [];
  const info = { activityId: 'test', workflowExecution: { workflowId: 'verdigris/orders', runId: '1' } };
  const worker = new MockActivityEnvironment(info, { client: temporal(told) });
  const activities = createActivities({ ...DEPENDENCIES, environment });
  const failure: unknown = await worker
    .run(() => work(activities))
    .then(
      () => new Error('it went through'),
      (error: unknown) => error,
    );
  return { failure: failure as Ended['failure'], told };
}

describe('a worker that does not know a connection', () => {
  it('ends the preflight at once: nothing is touched, and whoever has started the run hears of it', async () => {
    const { failure, told } = await ended((of) => of.preflight(REF));
    expect(failure).toMatchObject({ type: 'ConnectionUnknown', nonRetryable: true });
    expect(told).toEqual([]);
  });

  it.each([
    ['copySchema', (of: Activities) => of.copySchema(REF)],
    ['watchRetainedWal', (of: Activities) => of.watchRetainedWal(REF, 'fine')],
    ['undoReplication', (of: Activities) => of.undoReplication(REF, { keepGreen: false })],
    ['releaseDatabases', (of: Activities) => of.releaseDatabases(REF, { keepGreen: false })],
    ['whereWritesAre', (of: Activities) => of.whereWritesAre(REF)],
  ] as const)('has %s tried again, and its run told what it waits for', async (_name, work) => {
    const { failure, told } = await ended(work);
    expect(failure).toMatchObject({ type: 'ConnectionUnknown', nonRetryable: false });
    expect(told).toEqual([
      [
        expect.stringMatching(
          /^waits for access: blue: the worker knows no connection "a"; it knows none; set VERDIGRIS_CONNECTION_A/,
        ),
      ],
    ]);
  });

  it('is not another one: a secret that can not be read for a moment', async () => {
    expect(existsSync(UNREADABLE)).toBe(false);
    const environment = { VERDIGRIS_CONNECTION_A_FILE: UNREADABLE, VERDIGRIS_CONNECTION_B: 'postgres://u@h/d' };
    const { failure, told } = await ended((of) => of.claimDatabases(REF), environment);
    expect(failure).toMatchObject({ type: 'ConnectionUnknown', nonRetryable: false });
    expect(told).toEqual([
      [expect.stringMatching(/^waits for access: the file that VERDIGRIS_CONNECTION_A_FILE names can't be read; see/)],
    ]);
  });

  it('has a promotion tried no longer than it may begin; one that was decided for as long as it takes', async () => {
    const moment = (ms: number): string => new Date(Date.now() + ms).toISOString();
    const inTime = await ended((of) => of.promote(REF, 'blue', 1, false, moment(60_000)));
    expect(inTime.failure).toMatchObject({ type: 'ConnectionUnknown', nonRetryable: false });
    const late = await ended((of) => of.promote(REF, 'blue', 1, false, moment(-60_000)));
    expect(late.failure).toMatchObject({ type: 'PromotionBlocked', nonRetryable: true });
    expect(late.failure.message).toMatch(
      /could not begin before .*the worker knows no connection "a".*; set VERDIGRIS_/,
    );
    const decided = await ended((of) => of.promote(REF, 'blue', 1));
    expect(decided.failure).toMatchObject({ type: 'ConnectionUnknown', nonRetryable: false });
  });

  it('has it so where a server does not let the worker in, too', async () => {
    const refusal = Object.assign(new pg.DatabaseError('refused', 0, 'error'), { code: '28P01' });
    vi.spyOn(pg.Client.prototype, 'connect').mockRejectedValue(refusal as never);
    const known = { VERDIGRIS_CONNECTION_A: 'postgres://u:p@h/d', VERDIGRIS_CONNECTION_B: 'postgres://u:p@g/d' };
    const moment = (ms: number): string => new Date(Date.now() + ms).toISOString();
    const promote = (ms: number): Promise<Ended> => ended((of) => of.promote(REF, 'blue', 1, false, moment(ms)), known);
    expect(await promote(60_000)).toMatchObject({
      failure: { type: 'ConnectionFailed', nonRetryable: false },
      told: [[expect.stringMatching(/^waits for access: blue: .*28P01\); check VERDIGRIS_CONNECTION_A/)]],
    });
    const { failure, told } = await promote(-60_000);
    expect(failure).toMatchObject({ type: 'PromotionBlocked', nonRetryable: true });
    expect(failure.message).toMatch(/could not begin before .*\(28P01\); check VERDIGRIS_CONNECTION_A/);
    expect(told).toEqual([]);
    vi.restoreAllMocks();
  });

  it('gives a webhook up: the run says so, and calls again by itself', async () => {
    const target = { connection: 'hook', form: 'json', on: [], timeout: '1s', deadline: '1s', onRefuse: 'hold' };
    for (const work of [
      (of: Activities) => of.notify(REF, RUN, target as never, []),
      (of: Activities) => of.callWebhook(RUN, target as never, { event: 'stage' } as never, 1_000),
    ]) {
      const { failure, told } = await ended(work);
      expect(failure).toMatchObject({ type: 'ConnectionUnknown', nonRetryable: true });
      expect(told).toEqual([]);
    }
  });
});

const WRONG = `blue: the connection "a" can't be opened: the password or the user is wrong (28P01)`;

describe.concurrent('an attempt that goes on', () => {
  it.each([
    ['takes back that its activity waits for a connection', 2, 'ConnectionUnknown', '', [[]]],
    ['takes back that its activity waits for a login', 2, 'ConnectionFailed', `${WRONG}\nNext step: check it`, [[]]],
    ['says nothing after a failure of another kind', 2, 'ConnectionFailed', `it is away\n${WRONG}`, []],
    ['says nothing where the one before was not told', 10, 'ConnectionUnknown', '', []],
    ['says nothing where there was none before', 1, undefined, '', []],
  ] as const)('%s', async (_what, attempt, type, message, expected) => {
    const told: (readonly string[])[] = [];
    const info = { attempt, activityId: 'test', workflowExecution: { workflowId: 'verdigris/orders', runId: '1' } };
    await new MockActivityEnvironment(info, { client: temporal(told, type, message) }).run(() =>
      alive(DEPENDENCIES, () => sleep(3_300)),
    );
    expect(told).toEqual(expected);
  });
});
