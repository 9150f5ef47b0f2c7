import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';
import { notifyActivities } from '../../activities/notify.js';
import type { DeliveryLimits } from '../../src/notify/webhook.js';
import { redactor } from '../../src/worker/redact.js';
import type { Overrides } from './scripted-run.js';

interface Request {
  readonly key: string;
  readonly signature: string;
  readonly body: string;
}

/** A receiver of notifications over real HTTP, until the test has ended. */
export class NoticeReceiver {
  readonly requests: Request[] = [];
  /** How the next requests are answered; 200 when nothing is left. */
  readonly answers: (number | 'hang')[] = [];
  /** Bodies that it answers otherwise than `answers` say. */
  refuses: (body: string) => number | undefined = () => undefined;
  url = '';
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => void this.#take(request, response));
  }

  static async start(): Promise<NoticeReceiver> {
    const receiver = new NoticeReceiver();
    receiver.#server.listen(0, '127.0.0.1');
    await once(receiver.#server, 'listening');
    receiver.url = `http://127.0.0.1:${(receiver.#server.address() as AddressInfo).port}/hook/T0P-SECRET-PATH`;
    onTestFinished(() => receiver.close());
    return receiver;
  }

  close(): void {
    this.#server.close().closeAllConnections();
  }

  async #take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = '';
    for await (const chunk of request as AsyncIterable<Buffer>) body += chunk.toString();
    const { headers } = request;
    this.requests.push({
      key: String(headers['idempotency-key']),
      signature: String(headers['x-verdigris-signature']),
      body,
    });
    const answer = this.refuses(body) ?? this.answers.shift() ?? 200;
    if (answer === 'hang') return;
    response.writeHead(answer, answer === 302 ? { location: '/elsewhere' } : {}).end('ignored');
  }
}

/** Notices go where the environment of the worker says. */
export function sendingTo(environment: Record<string, string>): Overrides {
  const { notify } = notifyActivities({ environment, redact: redactor([]) });
  return { notify: (_run, ...args) => notify(...args) };
}

export const TWO_DELIVERIES = [
  { key: 'r-1', body: '{"n":1}' },
  { key: 'r-2', body: '{"n":2}' },
];

/** Limits that a test can wait for. */
export const QUICK: DeliveryLimits = { timeoutMs: 300, giveUpAfterMs: 2_000, firstPauseMs: 10, longestPauseMs: 50 };
