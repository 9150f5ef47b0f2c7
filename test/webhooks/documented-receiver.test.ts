import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { freePort } from '../../src/embedded/free-port.js';
import { WEBHOOK_EVENTS } from '../../src/plan/webhook-events.js';
import { deliveryOf, type WebhookCall } from '../../src/webhooks/call.js';
import { untilFollowed, type Followed } from '../../src/webhooks/until-followed.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';

const text = readFileSync(new URL('../../docs/webhooks.md', import.meta.url), 'utf8');
const SECRET = 'known to both';
const ends: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

/** The receiver of the page, as its reader would run it. */
async function documented(more: Record<string, string> = {}): Promise<{ url: string; lines: () => string[] }> {
  const code = /```js\n([\s\S]*?)```/.exec(text)?.[1] ?? '';
  const folder = mkdtempSync(join(tmpdir(), 'verdigris-receiver-'));
  writeFileSync(join(folder, 'receiver.mjs'), code);
  ends.push(() => Promise.resolve(rmSync(folder, { recursive: true })));
  for (;;) {
    const port = await freePort();
    const env = { PATH: process.env['PATH'], PORT: String(port), HOOK_SECRET: SECRET, ...more };
    const child = spawn(process.execPath, [join(folder, 'receiver.mjs')], { env, stdio: 'pipe' });
    let out = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (out += chunk.toString()));
    ends.unshift(() => ended(child));
    const url = `http://127.0.0.1:${port}/`;
    while (child.exitCode === null) {
      const isUp = await fetch(url).then(
        ({ status }) => status === 401,
        () => false,
      );
      if (isUp) return { url, lines: () => out.trim().split('\n') };
      await sleep(50);
    }
    // Somebody else has taken the port in the meantime.
    if (!out.includes('EADDRINUSE')) throw new Error(`the receiver did not start: ${out}`);
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
}

const NEVER = new AbortController().signal;
const RUN = { name: 'orders', workflowId: 'verdigris/orders', runId: 'r1' };

function callOf(generation: number, more: Partial<WebhookCall> = {}): WebhookCall {
  const at = new Date().toISOString();
  const base = { event: 'stage', epoch: 7, at, writesOn: 'blue', greenReadPercent: generation, text: '' } as const;
  return { ...base, generation, ...more };
}

function call(url: string, secret: string, what: WebhookCall): Promise<Followed> {
  const limits = { mayRefuse: true, timeoutMs: 10_000, forMs: 10_000 };
  return untilFollowed({ url, secret }, deliveryOf(RUN, what), limits, NEVER);
}

describe('the receiver of docs/webhooks.md', () => {
  it('follows what is signed, changes nothing for what is late, and refuses when it wants to', async () => {
    const { url, lines } = await documented();
    expect(await call(url, SECRET, callOf(1))).toEqual({ outcome: 'done' });
    expect(await call(url, SECRET, callOf(3))).toEqual({ outcome: 'done' });
    expect(await call(url, SECRET, callOf(2))).toEqual({ outcome: 'done' });
    expect(await call(url, SECRET, callOf(1, { epoch: 8, event: 'promoted', writesOn: 'green' }))).toEqual({
      outcome: 'done',
    });
    expect(await call(url, SECRET, callOf(9))).toEqual({ outcome: 'done' });
    expect(lines()).toEqual(['stage blue 1', 'stage blue 3', 'promoted green 1']);

    const freezing = await documented({ FREEZE: '1' });
    expect(await call(freezing.url, SECRET, callOf(1))).toEqual({ outcome: 'refused', why: 'change freeze' });
    expect(await call(freezing.url, SECRET, callOf(2, { event: 'rolledBack' }))).toEqual({ outcome: 'done' });
  });

  it('takes nothing that another has signed, that was changed on its way, or that is old', async () => {
    const { url, lines } = await documented();
    expect(await call(url, `${SECRET}!`, callOf(1))).toEqual({ outcome: 'failed', why: 'it answers 401' });
    const recorder = await WebhookReceiver.start();
    ends.push(() => recorder.close());
    await call(recorder.url, SECRET, callOf(1));
    const { signature = '', text: body = '' } = recorder.requests[0] ?? {};
    const send = (signed: string, sent: string): Promise<number> =>
      fetch(url, { method: 'POST', headers: { 'x-verdigris-signature': signed }, body: sent }).then((r) => r.status);
    expect(await send(signature, body.replace('"greenReadPercent":1', '"greenReadPercent":99'))).toBe(401);
    expect(await send(signature.replace(/t=\d+/, 't=1'), body)).toBe(401);
    expect(await send('', body)).toBe(401);
    expect(lines()).toEqual(['']);
    expect(await send(signature, body)).toBe(200);
    expect(lines()).toEqual(['stage blue 1']);
  });

  it('is beside a page that has every event, and every field of the body', () => {
    for (const event of Object.keys(WEBHOOK_EVENTS)) expect(text).toMatch(new RegExp(`^\\| \`${event}\` `, 'm'));
    const documentedBody = JSON.parse(/```json\n(\{\n {2}"version"[\s\S]*?)```/.exec(text)?.[1] ?? '') as object;
    const sent = JSON.parse(deliveryOf(RUN, callOf(1)).body) as object;
    expect(Object.keys(documentedBody)).toEqual(Object.keys(sent));
  });
});
