import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Received {
  readonly key: string;
  readonly signature: string;
  /** The header Authorization; null without one. */
  readonly authorization: string | null;
  readonly text: string;
  readonly body: ReceivedBody;
}

/** As docs/webhooks.md has it. */
export interface ReceivedBody {
  readonly version: number;
  readonly event: string;
  readonly generation: number;
  readonly epoch: number;
  readonly writesOn: string;
  readonly greenReadPercent: number;
  readonly mayRefuse: boolean;
  readonly text: string;
  readonly run: { readonly name: string; readonly workflowId: string; readonly runId: string };
}

export interface AnswerWith {
  readonly status: number;
  readonly headers?: Record<string, string>;
  readonly body?: string;
}

/** `hang`: no answer. `cut`: the connection is closed without one. */
export type Reply = AnswerWith | number | 'hang' | 'cut';

/** A receiver of webhooks over real HTTP, which answers as a test wants. */
export class WebhookReceiver {
  readonly requests: Received[] = [];
  /** How a request is answered; default: 200. May take its time. */
  answer: (request: Received, nth: number) => Reply | Promise<Reply> = () => 200;
  #server: Server | undefined;
  #port = 0;

  static async start(): Promise<WebhookReceiver> {
    const receiver = new WebhookReceiver();
    await receiver.listen();
    return receiver;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}/hook/T0P-SECRET-PATH`;
  }

  get events(): string[] {
    return this.requests.map(({ body }) => body.event);
  }

  of(event: string): Received[] {
    return this.requests.filter(({ body }) => body.event === event);
  }

  /** Also again, at the same address, after it was away. */
  async listen(): Promise<void> {
    const server = createServer((request, response) => void this.#take(request, response));
    server.listen(this.#port, '127.0.0.1');
    await once(server, 'listening');
    this.#server = server;
    this.#port = (server.address() as AddressInfo).port;
  }

  /** Nobody listens any more. */
  async close(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    const closed = once(server, 'close');
    server.close().closeAllConnections();
    await closed;
  }

  async #take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = '';
    for await (const chunk of request as AsyncIterable<Buffer>) text += chunk.toString();
    const { headers } = request;
    const received = {
      key: String(headers['idempotency-key']),
      signature: String(headers['x-verdigris-signature']),
      authorization: headers.authorization ?? null,
      text,
      body: JSON.parse(text) as ReceivedBody,
    };
    this.requests.push(received);
    const reply = await this.answer(received, this.requests.filter(({ key }) => key === received.key).length);
    if (reply === 'hang') return;
    if (reply === 'cut') return void response.destroy();
    const { status, headers: more = {}, body = '' } = typeof reply === 'number' ? { status: reply } : reply;
    response.writeHead(status, more).end(body);
  }
}

export function refusal(why: string, status = 409): AnswerWith {
  return { status, headers: { 'content-type': 'application/json' }, body: JSON.stringify({ refused: why }) };
}

/** Has a receiver change nothing for what is late, as docs/webhooks.md asks for. @returns what it has followed, in order */
export function followedBy(hook: WebhookReceiver): ReceivedBody[] {
  const followed: ReceivedBody[] = [];
  hook.answer = ({ body }) => {
    const last = followed.at(-1) ?? { epoch: 0, generation: 0 };
    const isLate = body.epoch < last.epoch || (body.epoch === last.epoch && body.generation < last.generation);
    if (!isLate) followed.push(body);
    return 200;
  };
  return followed;
}

/** What was followed, in short: `stage 10`. */
export function inShort(followed: readonly ReceivedBody[]): string[] {
  return followed.map(({ event, greenReadPercent }) => `${event} ${greenReadPercent}`);
}

/** Whether a request was signed with this key. */
export function isSigned({ signature, text }: Received, secret: string): boolean {
  const [, seconds = '', mac = ''] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(signature) ?? [];
  return mac === createHmac('sha256', secret).update(`${seconds}.${text}`).digest('hex');
}
