import { afterEach, describe, expect, it } from 'vitest';
import type { Webhook } from '../../src/notify/signed-post.js';
import { deliveryOf, type WebhookCall } from '../../src/webhooks/call.js';
import {
  PAUSES,
  untilFollowed,
  type CallLimits,
  type Followed,
  type Pauses,
} from '../../src/webhooks/until-followed.js';
import { signingWebhookOf } from '../../src/worker/connections.js';
import { isSigned, refusal, WebhookReceiver, type Reply } from '../support/webhook-receiver.js';

const SECRET = 'the key that calls are signed with';
const open: WebhookReceiver[] = [];

afterEach(async () => {
  for (const receiver of open.splice(0)) await receiver.close();
});

const RUN = { name: 'orders', workflowId: 'verdigris/orders', runId: 'r1' };
const CALL: WebhookCall = {
  event: 'stage',
  generation: 3,
  epoch: 7,
  at: '2026-11-28T03:00:00.000Z',
  writesOn: 'blue',
  greenReadPercent: 10,
  text: 'reads of 10 % of the users go to green',
};

const ASKS: CallLimits = { mayRefuse: true, timeoutMs: 1_500, forMs: 20_000 };
const TELLS: CallLimits = { ...ASKS, mayRefuse: false };
const QUICK: Pauses = { firstMs: 10, longestMs: 80, pollMs: 20, leastMs: 10 };
const NEVER = new AbortController().signal;

/** A receiver that gives these answers one after another, then 200. */
async function answering(...replies: Reply[]): Promise<WebhookReceiver> {
  const receiver = await WebhookReceiver.start();
  receiver.answer = () => replies.shift() ?? 200;
  open.push(receiver);
  return receiver;
}

function call(
  receiver: WebhookReceiver,
  limits: CallLimits,
  pauses = QUICK,
  onWait?: (why: string) => void,
): Promise<Followed> {
  const webhook = { url: receiver.url, secret: SECRET };
  return untilFollowed(webhook, deliveryOf(RUN, CALL), limits, NEVER, onWait, pauses);
}

describe('a call of a webhook', () => {
  it('is sent with the user and the password of its URL, and without them with none', async () => {
    const receiver = await answering();
    receiver.answer = ({ authorization }) => (authorization === `Basic ${btoa('deploy:p@ss:word%')}` ? 200 : 401);
    const at = 'VERDIGRIS_CONNECTION_DNS';
    const webhookAt = (url: string): Webhook => signingWebhookOf('dns', { [at]: url, [`${at}_SECRET`]: SECRET });
    const callTo = (url: string): Promise<Followed> =>
      untilFollowed(webhookAt(url), deliveryOf(RUN, CALL), ASKS, NEVER, undefined, QUICK);
    const withUser = receiver.url.replace('://', '://deploy:p%40ss%3Aword%25@');
    expect(await callTo(withUser)).toEqual({ outcome: 'done' });
    expect(await callTo(receiver.url)).toEqual({ outcome: 'failed', why: 'it answers 401' });
    expect(receiver.requests.map(({ authorization }) => authorization === null)).toEqual([false, true]);
    await receiver.close();
    const late = await untilFollowed(webhookAt(withUser), deliveryOf(RUN, CALL), { ...ASKS, forMs: 0 }, NEVER);
    expect(late).toEqual({
      outcome: 'late',
      why: expect.stringMatching(/^it can't be reached \([A-Z_]+\)$/) as string,
    });
  });

  it('is sent again after an error, a hang, a cut and too many requests: the same bytes with the same key, signed', async () => {
    const receiver = await answering(503, 'hang', 'cut', 429, 408, { status: 409 }, 204);
    const waits: string[] = [];
    expect(await call(receiver, ASKS, QUICK, (why) => waits.push(why))).toEqual({ outcome: 'done' });
    expect(receiver.requests).toHaveLength(7);
    expect(new Set(receiver.requests.map(({ key }) => key))).toEqual(new Set(['r1-3']));
    expect(new Set(receiver.requests.map(({ text }) => text)).size).toBe(1);
    expect(receiver.requests.every((request) => isSigned(request, SECRET))).toBe(true);
    expect(receiver.requests.some((request) => isSigned(request, `${SECRET}.`))).toBe(false);
    expect(waits).toEqual([
      'it answers 503',
      'no answer within 1.5 s',
      "it can't be reached (UND_ERR_SOCKET)",
      'it answers 429',
      'it answers 408',
      'it answers 409 without a reason',
    ]);
    expect(JSON.parse(receiver.requests[0]?.text ?? '')).toEqual({ ...CALL, version: 1, mayRefuse: true, run: RUN });
  });

  it('that was accepted is asked again until it is effective, as often as Retry-After says', async () => {
    const accepted = (after: string): Reply => ({ status: 202, headers: { 'retry-after': after } });
    const receiver = await answering({ status: 202 }, accepted('30'), accepted('0'), accepted('soon'));
    const begun = performance.now();
    expect(await call(receiver, ASKS, { ...QUICK, longestMs: 400 })).toEqual({ outcome: 'done' });
    // Half a minute was asked for, and no more than 0.4 s are waited; none was asked for, and it is no busy loop.
    expect(performance.now() - begun).toBeGreaterThan(400);
    expect(performance.now() - begun).toBeLessThan(15_000);
    expect(receiver.requests).toHaveLength(5);
    expect(new Set(receiver.requests.map(({ key }) => key)).size).toBe(1);
  });

  it('that is never effective is late at its deadline, and says so', async () => {
    const receiver = await answering(...Array.from({ length: 200 }, (): Reply => 202));
    expect(await call(receiver, { ...ASKS, forMs: 1_000 })).toEqual({
      outcome: 'late',
      why: 'it has accepted the call (202), which is not effective yet',
    });
    expect(receiver.requests.length).toBeGreaterThan(2);
  });

  it.each([
    [409, 'the TTL is still a day', 'the TTL is still a day'],
    [422, '  two\nlines\u001b[31m and more ', 'two lines [31m and more'],
    // Going on would move traffic against the receiver's will.
    [200, 'no', 'no'],
    [202, 'not today', 'not today'],
  ])('is refused with %i and a reason, which is one short line', async (status, said, why) => {
    const receiver = await answering(refusal(said, status));
    expect(await call(receiver, ASKS)).toEqual({ outcome: 'refused', why });
    expect(receiver.requests).toHaveLength(1);
  });

  it('is refused without a word, or with too many', async () => {
    expect(await call(await answering({ status: 422, body: '{"refused":true}' }), ASKS)).toEqual({
      outcome: 'refused',
      why: 'it gives no reason',
    });
    const long = await call(await answering(refusal('x'.repeat(5_000))), ASKS);
    expect(long).toEqual({ outcome: 'refused', why: `${'x'.repeat(299)}…` });
  });

  it('is not refused by a body that says otherwise, is no JSON, or never ends', async () => {
    expect(await call(await answering({ status: 200, body: '{"refused":null}' }), ASKS)).toEqual({ outcome: 'done' });
    expect(await call(await answering({ status: 200, body: 'refused' }), ASKS)).toEqual({ outcome: 'done' });
    expect(await call(await answering({ status: 200, body: ' '.repeat(5_000_000) }), ASKS)).toEqual({
      outcome: 'done',
    });
  });

  it('is refused behind a byte order mark, or a long report', async () => {
    const report = { checks: 'x'.repeat(40_000), refused: 'the replica is 40 min late' };
    for (const body of [`\ufeff${JSON.stringify({ refused: report.refused })}`, JSON.stringify(report)]) {
      expect(await call(await answering({ status: 200, body }), ASKS)).toEqual({
        outcome: 'refused',
        why: report.refused,
      });
    }
  });

  it.each([
    [{ status: 200, body: `{"refused": 'no'}` }, 'begins like JSON and is none'],
    [{ status: 200, body: `{"checks":"${'x'.repeat(1_100_000)}","refused":"no"}` }, 'has more than 1 MB'],
  ])('that nobody can tell from a refusal does not pass for followed', async (reply, why) => {
    const receiver = await answering(reply);
    expect(await call(receiver, ASKS)).toEqual({
      outcome: 'failed',
      why: `whether it refuses can't be read in its answer, which ${why}`,
    });
    expect(receiver.requests).toHaveLength(1);
    // What has happened can't be refused, and is told.
    expect(await call(await answering(reply), TELLS)).toEqual({ outcome: 'done' });
  });

  it.each([
    [400, 'it answers 400'],
    [401, 'it answers 401'],
    [404, 'it answers 404'],
    [422, 'it answers 422'],
    [302, 'it answers with a redirect (302), which is not followed'],
  ])('that is answered %i needs a person, and is not tried again', async (status, why) => {
    const receiver = await answering({ status, headers: { location: '/elsewhere' } });
    expect(await call(receiver, ASKS)).toEqual({ outcome: 'failed', why });
    expect(receiver.requests).toHaveLength(1);
  });

  it('that tells what has happened is not ended by a refusal or an error: it is told until it is taken', async () => {
    const receiver = await answering(refusal('no'), 401, 302, 404, 202, 'cut');
    const waits: string[] = [];
    expect(await call(receiver, TELLS, QUICK, (why) => waits.push(why))).toEqual({ outcome: 'done' });
    expect(receiver.requests).toHaveLength(7);
    expect(waits[0]).toBe("it refuses what can't be refused: no");
  });

  it('to nobody is late, and the address is not in the reason', async () => {
    const receiver = await answering();
    await receiver.close();
    const followed = await call(receiver, { ...TELLS, forMs: 200 });
    expect(followed).toEqual({ outcome: 'late', why: "it can't be reached (ECONNREFUSED)" });
  });

  it('is broken off when the run goes another way', async () => {
    const receiver = await answering('hang');
    const end = new AbortController();
    const webhook = { url: receiver.url, secret: SECRET };
    const calling = untilFollowed(webhook, deliveryOf(RUN, CALL), { ...ASKS, timeoutMs: 60_000 }, end.signal);
    setTimeout(() => end.abort(new Error('another way')), 100);
    await expect(calling).rejects.toThrow('another way');
    expect(PAUSES.longestMs).toBeLessThan(60_000);
  });
});
