import { MockActivityEnvironment } from '@temporalio/testing';
import type { Client } from '@temporalio/client';
import pg from 'pg';
import { describe, expect, it, vi } from 'vitest';
import { alive, failureOf } from '../../activities/context.js';
import type { VerdigrisError } from '../../src/errors.js';
import { stepFailed } from '../../src/postgres/migrate/step-failed.js';
import { peerFailed } from '../../src/postgres/peer-failed.js';
import { openSession } from '../../src/postgres/session.js';
import { progressLine } from '../../src/progress.js';
import type { Progress } from '../../src/postgres/migrate/step-context.js';

/** What the workflow is told when an activity ends with this error. */
async function told(error: unknown, attempt: number): Promise<string[]> {
  const signals: string[] = [];
  const client = {
    withAbortSignal: (_: AbortSignal, work: () => Promise<unknown>) => work(),
    workflow: {
      getHandle: () => ({
        describe: () => Promise.resolve({ historyLength: 100 }),
        signal: (_: unknown, progress: readonly Progress[]) => {
          signals.push(...progress.map(progressLine));
          return Promise.resolve();
        },
      }),
    },
  };
  const environment = new MockActivityEnvironment(
    { attempt, workflowExecution: { workflowId: 'run', runId: '1' } },
    { client: client as unknown as Client },
  );
  const run = (): Promise<never> =>
    alive({ environment: {}, redact: (text) => text }, () => Promise.reject(error as Error));
  await expect(environment.run(run)).rejects.toMatchObject({ name: 'ApplicationFailure' });
  return signals;
}

function refused(code: string, message: string): unknown {
  const error = new pg.DatabaseError(message, 0, 'error');
  error.code = code;
  return stepFailed('index "by_a" on table public.t can\'t be built', error, 'correct it in the plan');
}

describe('an activity that needs room', () => {
  it('is shown with what it needs while it is tried again, ever more rarely', async () => {
    const full = refused('53100', 'could not extend file: No space left on device');
    expect(await told(full, 1)).toEqual([
      expect.stringMatching(/^waits for room: index "by_a" .*No space left on device \(53100\); give green more/),
    ]);
    expect(await told(full, 9)).toEqual([]);
    expect(await told(full, 16)).toHaveLength(1);
  });

  it('is shown like one that needs a certificate, which is no reason to give the run up', async () => {
    const expired = Object.assign(new Error('certificate has expired'), { code: 'CERT_HAS_EXPIRED' });
    vi.spyOn(pg.Client.prototype, 'connect').mockRejectedValue(expired as never);
    const database = { side: 'green', connection: 'shop_green', config: {}, peerConninfo: '' } as const;
    const failed: unknown = await openSession(database, { purpose: 'test' }).catch((error: unknown) => error);
    vi.restoreAllMocks();
    for (const [error, line] of [
      [failed, /^waits for TLS: green: .*certificate has expired \(CERT_HAS_EXPIRED\); mend the certificate of green/],
      [expired, /^waits for TLS: .*certificate has expired/],
    ] as const) {
      expect(await told(error, 1)).toEqual([expect.stringMatching(line)]);
      expect(failureOf(error, new AbortController().signal, (text) => text)).toMatchObject({
        ...{ type: 'ConnectionFailed', nonRetryable: false },
      });
    }
  });

  it('is shown like one whose server can not log in to the other one, be it away or refused', async () => {
    const said =
      'could not connect to the publisher: connection to server at "10.1.2.3", port 5432 failed: FATAL: no pg_hba.conf entry for host "10.1.2.4", user "repl"';
    const refusal = Object.assign(new pg.DatabaseError(said, 0, 'error'), { code: '08006' });
    const peer = {
      side: 'blue',
      connection: 'shop_blue',
      config: {},
      peerConninfo: 'host=10.1.2.3 user=repl',
    } as const;
    const error = peerFailed(refusal, peer);
    const [line = '', ...more] = await told(error, 1);
    expect(more).toEqual([]);
    expect(line).toMatch(
      /^waits for access: the server of green can't reach blue by the connection "shop_blue": .*pg_hba.*\(08006\); let blue's pg_hba.conf/,
    );
    expect(line).not.toMatch(/10\.1\.2|"repl"/);
    expect(failureOf(error, new AbortController().signal, (text) => text)).toMatchObject({
      ...{ type: 'ConnectionFailed', nonRetryable: false },
    });
  });

  it.each([
    ['28P01', 'the password or the user is wrong'],
    ['28000', 'the server does not let this user in'],
  ])('is shown like one that a server does not let in (%s)', async (code, why) => {
    const refusal = Object.assign(new pg.DatabaseError('refused for user "app"', 0, 'error'), { code });
    vi.spyOn(pg.Client.prototype, 'connect').mockRejectedValue(refusal as never);
    const database = { side: 'blue', connection: 'shop_blue', config: {}, peerConninfo: '' } as const;
    const failed: unknown = await openSession(database, { purpose: 'test' }).catch((error: unknown) => error);
    vi.restoreAllMocks();
    const [line = '', ...more] = await told(failed, 1);
    expect(more).toEqual([]);
    expect(line).toMatch(/^waits for access: blue: .* VERDIGRIS_CONNECTION_SHOP_BLUE where the worker runs/);
    expect(line).toContain(why);
    expect(failureOf(failed, new AbortController().signal, (text) => text)).toMatchObject({
      ...{ type: 'ConnectionFailed', nonRetryable: false },
    });
    // Where it is not waited for, nothing says that it is.
    expect(await told((failed as VerdigrisError).asLastWord(), 1)).toEqual([]);
  });

  it('is the only one that is: what is refused ends by itself', async () => {
    expect(await told(refused('42703', 'column "x" does not exist'), 1)).toEqual([]);
  });
});
