import net from 'node:net';

/** A statement of a session, as the proxy has seen it pass: one point at which a fault can be put. */
export interface Point {
  /** application_name of the session. */
  readonly session: string;
  /** The statement without its numbers and identifiers of one run; `connect` for the session's beginning. */
  readonly text: string;
  /** The how-many-eth of these since the proxy was made, from 1. */
  readonly nth: number;
}

/** `before` it reaches the server; `after` the server has carried it out, before its answer reaches the client. */
export type When = 'before' | 'after';

/** What waits at a point: nothing passes on that connection until it is let go. */
export interface Held {
  release(): void;
}

interface Trap {
  readonly matches: (point: Point) => boolean;
  readonly when: When;
  readonly sprung: (held: Held) => void;
}

const SYNC = 'S'.charCodeAt(0);
const QUERY = 'Q'.charCodeAt(0);
const PARSE = 'P'.charCodeAt(0);
const READY = 'Z'.charCodeAt(0);
const TERMINATE = 'X'.charCodeAt(0);
const PROTOCOL_3 = 196_608;

/**
 * A TCP proxy that understands just enough of PostgreSQL's protocol to see the statements of its sessions, and to stop
 * one session at one of them.
 */
export class StatementProxy {
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();
  readonly #counts = new Map<string, number>();
  #trap: Trap | undefined;

  private constructor(
    target: number,
    private readonly onPoint: (point: Point) => void,
  ) {
    this.#server = net.createServer({ allowHalfOpen: true }, (client) => {
      const server = net.connect({ port: target, host: '127.0.0.1', allowHalfOpen: true });
      new Link(client, server, this.#sockets, this);
    });
  }

  static async start(target: number, onPoint: (point: Point) => void = () => undefined): Promise<StatementProxy> {
    const proxy = new StatementProxy(target, onPoint);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('the proxy does not listen');
    return address.port;
  }

  /** Stops the session that comes to this point. Resolves when it is there. */
  stopAt(point: Point, when: When): Promise<Held> {
    return this.stopWhere((one) => samePoint(point, one), when);
  }

  /** Stops the first session that comes to such a point. Resolves when it is there. */
  stopWhere(matches: (point: Point) => boolean, when: When): Promise<Held> {
    return new Promise((sprung) => {
      this.#trap = { matches, when, sprung };
    });
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  /** A session has come to a statement: the trap that waits for it there, if any. */
  arriveAt(session: string, sql: string): Trap | undefined {
    const text = normalized(sql);
    const key = `${session}\0${text}`;
    const point = { session, text, nth: (this.#counts.get(key) ?? 0) + 1 };
    this.#counts.set(key, point.nth);
    this.onPoint(point);
    const trap = this.#trap;
    if (trap === undefined || !trap.matches(point)) return undefined;
    this.#trap = undefined;
    return trap;
  }
}

export function samePoint(a: Point, b: Point): boolean {
  return a.session === b.session && a.text === b.text && a.nth === b.nth;
}

function normalized(sql: string): string {
  return sql
    .replaceAll(/CONNECTION '[^']*'/g, "CONNECTION '#'")
    .replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, '#')
    .replaceAll(/verdigris_(probe|secret)_[0-9a-f]+/g, 'verdigris_$1_#')
    .replaceAll(/\d+/g, '#')
    .replaceAll(/\s+/g, ' ')
    .trim();
}

/** A session that gets another name begins anew under it: see useAgain(). */
const USED_AGAIN = /^SELECT set_config\('application_name', '([^']*)'/;

/** One connection. The client's messages go on by statements: a simple query, or everything up to Sync. */
class Link {
  #fromClient: Buffer = Buffer.alloc(0);
  #statement: Buffer[] = [];
  #sql = '';
  #session: string | undefined;
  #fromServer: Buffer = Buffer.alloc(0);
  #isHeld = false;
  /** Set while the answer to a statement is kept back. */
  #answerFor: Trap | undefined;

  constructor(
    private readonly client: net.Socket,
    private readonly server: net.Socket,
    sockets: Set<net.Socket>,
    private readonly proxy: StatementProxy,
  ) {
    for (const [socket, other] of [
      [client, server],
      [server, client],
    ] as const) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => undefined);
      // One direction may end before the other: a server ends its own when it has read the client's goodbye.
      socket.on('end', () => other.end());
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
    client.on('data', (data: Buffer) => {
      this.#fromClient = Buffer.concat([this.#fromClient, data]);
      this.#pumpClient();
    });
    server.on('data', (data: Buffer) => this.#pumpServer(data));
  }

  #pumpClient(): void {
    while (!this.#isHeld) {
      // The first message of a session has no type.
      const header = this.#session === undefined ? 0 : 1;
      if (this.#fromClient.length < header + 4) return;
      const length = header + this.#fromClient.readInt32BE(header);
      if (this.#fromClient.length < length) return;
      const message = this.#fromClient.subarray(0, length);
      this.#fromClient = this.#fromClient.subarray(length);
      this.#take(message);
    }
  }

  #take(message: Buffer): void {
    if (this.#session === undefined) {
      if (message.readInt32BE(4) !== PROTOCOL_3) return void this.server.write(message);
      this.#session = applicationName(message);
      return this.#pass([message], 'connect');
    }
    const type = message[0];
    if (type === QUERY) {
      const sql = text(message, 5);
      const used = USED_AGAIN.exec(sql)?.[1];
      if (used === undefined) return this.#pass([message], sql);
      this.#session = used;
      return this.#pass([message], 'connect');
    }
    if (type === PARSE) this.#sql = text(message, message.indexOf(0, 5) + 1);
    if (type === TERMINATE || this.#sql === '') return void this.server.write(message);
    this.#statement.push(message);
    if (type !== SYNC) return;
    this.#pass(this.#statement, this.#sql);
    this.#statement = [];
    this.#sql = '';
  }

  #pass(messages: readonly Buffer[], sql: string): void {
    const trap = this.proxy.arriveAt(this.#session ?? '', sql);
    const send = (): void => messages.forEach((message) => this.server.write(message));
    if (trap?.when === 'before') {
      this.#isHeld = true;
      trap.sprung({
        release: () => {
          this.#isHeld = false;
          send();
          this.#pumpClient();
        },
      });
      return;
    }
    this.#answerFor = trap;
    send();
  }

  #pumpServer(data: Buffer): void {
    if (this.#answerFor === undefined) return void this.client.write(data);
    this.#fromServer = Buffer.concat([this.#fromServer, data]);
    if (this.#isHeld || !endsReady(this.#fromServer)) return;
    this.#isHeld = true;
    this.#answerFor.sprung({
      release: () => {
        this.#isHeld = false;
        this.#answerFor = undefined;
        this.client.write(this.#fromServer);
        this.#fromServer = Buffer.alloc(0);
        this.#pumpClient();
      },
    });
  }
}

/** Whether the server's messages end with ReadyForQuery: the statement has been carried out. */
function endsReady(messages: Buffer): boolean {
  let at = 0;
  let last: number | undefined;
  while (at + 5 <= messages.length) {
    last = messages[at];
    at += 1 + messages.readInt32BE(at + 1);
  }
  return at === messages.length && last === READY;
}

function applicationName(startup: Buffer): string {
  const words = startup.subarray(8).toString().split('\0');
  const at = words.indexOf('application_name');
  return at === -1 ? '' : (words[at + 1] ?? '');
}

function text(message: Buffer, from: number): string {
  return message.subarray(from, message.indexOf(0, from)).toString();
}
