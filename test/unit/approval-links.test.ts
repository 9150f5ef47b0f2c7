import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import type { RunView } from '../../src/approval/judge-link.js';
import { readLink, signLink, type ApprovalLink } from '../../src/approval/link.js';
import {
  ApprovalRefused,
  approvalServer,
  RunUnreachable,
  type Runs,
  type SentApproval,
} from '../../src/approval/server.js';
import { approvalSecret } from '../../src/approval/settings.js';

const SECRET = 'a secret that is long enough to sign with';
const NOW = Date.parse('2026-11-23T10:00:00Z');
const LINK: ApprovalLink = {
  workflowId: 'verdigris/orders',
  runId: 'r1',
  gate: 'promote',
  request: 'promote-1',
  by: 'ada',
  expires: NOW / 1_000 + 60,
};
const ASKS: RunView = {
  name: 'orders',
  runId: 'r1',
  outcome: 'running',
  waiting: {
    for: 'approval',
    why: 'approval before <writes> move',
    request: 'promote-1',
    since: '2026-11-23T09:00:00Z',
    evidence: ['gate errorRate: pass, 0 of 3000 "failed"'],
  },
  decisions: [],
};

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close().closeAllConnections();
});

interface Rig {
  readonly url: string;
  readonly sent: [SentApproval, string][];
  readonly log: string[];
  run: RunView;
  fails: Error | null;
}

async function serve(now = NOW, secret = (): string => SECRET): Promise<Rig> {
  const rig = {
    ...{ url: '', sent: [] as [SentApproval, string][], log: [] as string[] },
    ...{ run: ASKS, fails: null as Error | null },
  };
  const runs: Runs = {
    view: () => (rig.fails instanceof RunUnreachable ? Promise.reject(rig.fails) : Promise.resolve(rig.run)),
    approve: (_workflowId, approval, id) => {
      rig.sent.push([approval, id]);
      return rig.fails === null ? Promise.resolve('approved: promote') : Promise.reject(rig.fails);
    },
  };
  const server = approvalServer(runs, secret, { now: () => now, log: (line) => void rig.log.push(line) });
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  rig.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return rig;
}

async function ask(
  rig: Rig,
  method: string,
  token = signLink(LINK, SECRET),
  body: Record<string, string> | string = { reason: 'looks good' },
): Promise<{ status: number; text: string; headers: Headers }> {
  const response = await fetch(`${rig.url}/approve/${token}`, {
    method,
    headers: { accept: 'application/json' },
    ...(method === 'POST' ? { body: typeof body === 'string' ? body : new URLSearchParams(body) } : {}),
  });
  const text = await response.text();
  return { status: response.status, text, headers: response.headers };
}

describe('the signature of a link', () => {
  it('lets nothing pass that has been changed in a single character, or made with another secret', () => {
    const token = signLink(LINK, SECRET);
    expect(readLink(token, SECRET)).toEqual(LINK);
    expect(readLink(token, `${SECRET}!`)).toBeUndefined();
    fc.assert(
      fc.property(fc.nat(token.length - 1), fc.constantFrom(...'ABCxyz019-_.='), (at, other) => {
        const changed = token.slice(0, at) + other + token.slice(at + 1);
        if (changed !== token) expect(readLink(changed, SECRET)).toBeUndefined();
      }),
    );
    for (const text of ['', '.', 'a.b', `${token}.`, `${token}=`, token.split('.')[0] ?? '']) {
      expect(readLink(text, SECRET), text).toBeUndefined();
    }
  });

  it('needs a secret that can not be tried', () => {
    expect(() => approvalSecret({ VERDIGRIS_APPROVAL_SECRET: 'short' })).toThrow(/shorter than 32/);
    expect(approvalSecret({})).toBeUndefined();
    expect(approvalSecret({ VERDIGRIS_APPROVAL_SECRET: SECRET })).toBe(SECRET);
  });
});

describe('an approval link', () => {
  it('shows what is approved when it is opened, and approves nothing by that', async () => {
    const rig = await serve();
    const response = await fetch(`${rig.url}/approve/${signLink(LINK, SECRET)}`);
    const page = await response.text();
    expect(response.status).toBe(200);
    expect(page).toContain('approval before &lt;writes&gt; move');
    expect(page).toContain('gate errorRate: pass, 0 of 3000 &quot;failed&quot;');
    expect(page).toContain('nothing was measured anew for this page');
    expect(page).not.toContain('known now');
    expect(page).toContain('<form method="post">');
    expect((await ask(rig, 'HEAD')).status).toBe(200);
    expect((await ask(rig, 'PUT')).status).toBe(405);
    expect(rig.sent).toEqual([]);
    expect(response.headers.get('cache-control')).toBe('no-store');
    expect(response.headers.get('content-security-policy')).toContain("frame-ancestors 'none'");
  });

  it('approves by POST, as the person that it is made out to', async () => {
    const rig = await serve();
    const done = await ask(rig, 'POST', undefined, { reason: 'go', by: 'mallory' });
    expect(done).toMatchObject({ status: 200, text: expect.stringContaining('approved: promote') as string });
    expect(rig.sent).toEqual([
      [{ gate: 'promote', request: 'promote-1', by: 'ada', reason: 'go' }, 'link-promote-1-ada-0'],
    ]);
  });

  it('asks for a reason, and for a name where it is made out to nobody', async () => {
    const rig = await serve();
    expect(await ask(rig, 'POST', undefined, {})).toMatchObject({ status: 422 });
    const nobody: ApprovalLink = { ...LINK };
    Reflect.deleteProperty(nobody, 'by');
    const token = signLink(nobody, SECRET);
    expect(await ask(rig, 'POST', token, { reason: 'go' })).toMatchObject({ status: 422 });
    expect(await ask(rig, 'POST', token, { reason: 'go', by: 'grace' })).toMatchObject({ status: 200 });
    expect(rig.sent[0]?.[0].by).toBe('grace');
    rig.run = { ...ASKS, waiting: { ...ASKS.waiting, mayApprove: ['ada'] } as RunView['waiting'] };
    expect(await ask(rig, 'POST', token, { reason: 'go', by: 'ada' })).toMatchObject({ status: 403 });
  });

  const used = { message: 'approve', by: 'Ada', at: 'T1', request: 'promote-1' };
  const refusals: [what: string, status: number, text: RegExp, change: (rig: Rig) => Rig | string | Promise<Rig>][] = [
    ['changed', 403, /not made here, or it has been changed/, () => `${signLink(LINK, SECRET)}A`],
    ['expired', 410, /has expired at 2026-11-23T10:01:00/, () => serve(NOW + 61_000)],
    ['of an earlier run', 410, /an earlier run/, (rig) => Object.assign(rig, { run: { ...ASKS, runId: 'r2' } })],
    [
      'used',
      410,
      /has been used: Ada has approved at T1/,
      (rig) => Object.assign(rig, { run: { ...ASKS, waiting: null, decisions: [used] } }),
    ],
    [
      'used, while another person is waited for',
      410,
      /has been used/,
      (rig) =>
        Object.assign(rig, {
          run: {
            ...ASKS,
            decisions: [used],
            waiting: { ...ASKS.waiting, approvals: [{ by: 'ada', at: 'T1', reason: 'x' }] },
          },
        }),
    ],
    [
      'answered by others',
      410,
      /does not ask this any more: answered by grace at T2/,
      (rig) => Object.assign(rig, { run: { ...ASKS, waiting: null, decisions: [{ ...used, by: 'grace', at: 'T2' }] } }),
    ],
    [
      'for an earlier question of the same gate',
      410,
      /does not ask this any more/,
      (rig) => Object.assign(rig, { run: { ...ASKS, waiting: { ...ASKS.waiting, request: 'promote-2' } } }),
    ],
    [
      'of a run that has ended',
      410,
      /has ended \(rolledBack\)/,
      (rig) => Object.assign(rig, { run: { ...ASKS, outcome: 'rolledBack', waiting: null } }),
    ],
    [
      'whose run is gone',
      410,
      /there is no run/,
      (rig) => Object.assign(rig, { fails: new RunUnreachable(410, 'there is no run x') }),
    ],
    [
      'while no worker is up',
      503,
      /no worker/,
      (rig) => Object.assign(rig, { fails: new RunUnreachable(503, 'no worker has answered') }),
    ],
  ];
  it.each(refusals)('that is %s is refused with %i, and says why', async (_what, status, text, change) => {
    const rig = await serve();
    const changed = await change(rig);
    for (const method of ['GET', 'POST']) {
      const answer = await ask(
        typeof changed === 'string' ? rig : changed,
        method,
        typeof changed === 'string' ? changed : undefined,
      );
      expect(answer.status).toBe(status);
      expect(answer.text).toMatch(text);
    }
    expect(rig.sent).toEqual([]);
  });

  it('says what the run says when it refuses', async () => {
    const rig = await serve();
    rig.fails = new ApprovalRefused('"ada" may not approve this');
    expect(await ask(rig, 'POST')).toMatchObject({
      status: 409,
      text: expect.stringContaining('may not approve') as string,
    });
  });

  it('that can not be answered is in the log with the cause, and without the link', async () => {
    const rig = await serve();
    const token = signLink(LINK, SECRET);
    rig.fails = new Error('the update failed', { cause: new Error(`deep down, at /approve/${token}`) });
    expect((await ask(rig, 'POST', token)).status).toBe(500);
    rig.fails = new RunUnreachable(503, 'no worker has answered', new Error('deadline exceeded'));
    expect((await ask(rig, 'GET', token)).status).toBe(503);
    expect(rig.log).toEqual([
      'Error: the update failed; from Error: deep down, at /approve/***',
      'RunUnreachable: no worker has answered; from Error: deadline exceeded',
    ]);
    rig.fails = new ApprovalRefused('"ada" may not approve this');
    await ask(rig, 'POST', token);
    await ask(rig, 'POST', token, 'x'.repeat(20_000));
    expect(rig.log).toHaveLength(2);
  });

  it('is held against the secret that its file has now', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'verdigris-approval-secret-'));
    const file = join(folder, 'secret');
    try {
      writeFileSync(file, SECRET);
      const rig = await serve(NOW, () => approvalSecret({ VERDIGRIS_APPROVAL_SECRET_FILE: file }) ?? '');
      expect((await ask(rig, 'GET')).status).toBe(200);
      const next = 'another secret that is long enough to sign with';
      writeFileSync(file, next);
      expect((await ask(rig, 'POST')).status).toBe(403);
      expect((await ask(rig, 'POST', signLink(LINK, next))).status).toBe(200);
      rmSync(file);
      expect((await ask(rig, 'GET', signLink(LINK, next))).status).toBe(500);
      expect(rig.log).toEqual([expect.stringContaining("that VERDIGRIS_APPROVAL_SECRET_FILE names can't be read")]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('takes a name of a hundred characters at most', async () => {
    const rig = await serve();
    const nobody: ApprovalLink = { ...LINK };
    Reflect.deleteProperty(nobody, 'by');
    const token = signLink(nobody, SECRET);
    // The last is one character that is written out as 18.
    for (const by of ['a'.repeat(101), '\uFDFA'.repeat(50)]) {
      const answer = await ask(rig, 'POST', token, { reason: 'go', by });
      expect(answer).toMatchObject({ status: 422, text: expect.stringContaining('100 characters') as string });
    }
    expect(rig.sent).toEqual([]);
    expect(await ask(rig, 'POST', token, { reason: 'go', by: 'a'.repeat(100) })).toMatchObject({ status: 200 });
  });

  it('takes no flood of text', async () => {
    const rig = await serve();
    expect((await ask(rig, 'POST', undefined, 'x'.repeat(20_000))).status).toBe(413);
    expect((await fetch(`${rig.url}/elsewhere`)).status).toBe(404);
    expect(rig.sent).toEqual([]);
  });
});
