import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** Which way bytes go: from the client to the server, or back. */
export type Direction = 'toServer' | 'toClient';

/** The link between a client and a server: a TCP proxy that can be cut, delayed or made silent at will. */
export class LinkProxy {
  readonly #server: net.Server;
  readonly #wires = new Set<Wire>();
  readonly #silent: Record<Direction, boolean> = { toServer: false, toClient: false };
  #delayMs = 0;
  #port = 0;
  #isRefusing = false;
  #target: number;

  private constructor(target: number) {
    this.#target = target;
    this.#server = net.createServer({ allowHalfOpen: true }, (client) => {
      if (this.#isRefusing) return void client.resetAndDestroy();
      const server = net.connect({ port: this.#target, host: '127.0.0.1', allowHalfOpen: true });
      const wire = new Wire(client, server, () => this.#wires.delete(wire));
      this.#wires.add(wire);
      this.#apply(wire);
    });
  }

  static async start(target: number): Promise<LinkProxy> {
    const proxy = new LinkProxy(target);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    const address = proxy.#server.address();
    if (address === null || typeof address === 'string') throw new Error('the proxy does not listen');
    proxy.#port = address.port;
    return proxy;
  }

  get port(): number {
    return this.#port;
  }

  get connections(): number {
    return this.#wires.size;
  }

  /** Resets every connection there is; new ones are taken. */
  cut(): void {
    for (const wire of this.#wires) wire.cut();
  }

  /** Resets every connection, and new ones as they come. */
  refuse(): void {
    this.#isRefusing = true;
    this.cut();
  }

  /** The address is another server's from now on: every connection is reset, and new ones go there. */
  leadTo(target: number): void {
    this.#target = target;
    this.cut();
  }

  /** Every byte takes so much longer, in both directions. */
  delay(ms: number): void {
    this.#delayMs = ms;
    this.#applyAll();
  }

  /** A black hole: nothing arrives in this direction, and nobody is told. What was sent arrives when it is over. */
  swallow(...directions: readonly Direction[]): void {
    for (const direction of directions) this.#silent[direction] = true;
    this.#applyAll();
  }

  /** The sender's end of this direction closes, on every connection there is; the other direction goes on. */
  halfClose(direction: Direction): void {
    for (const wire of this.#wires) wire.halfClose(direction);
  }

  /** Everything passes again. */
  restore(): void {
    this.#isRefusing = false;
    this.#delayMs = 0;
    this.#silent.toServer = this.#silent.toClient = false;
    this.#applyAll();
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.refuse();
    await closed;
  }

  #applyAll(): void {
    for (const wire of this.#wires) this.#apply(wire);
  }

  #apply(wire: Wire): void {
    wire.pass('toServer', { silent: this.#silent.toServer, delayMs: this.#delayMs });
    wire.pass('toClient', { silent: this.#silent.toClient, delayMs: this.#delayMs });
  }
}

interface Passing {
  readonly silent: boolean;
  readonly delayMs: number;
}

/** One connection, as a lane each way. */
class Wire {
  readonly #lanes: Readonly<Record<Direction, Lane>>;

  constructor(
    private readonly client: net.Socket,
    private readonly server: net.Socket,
    gone: () => void,
  ) {
    this.#lanes = { toServer: new Lane(client, server), toClient: new Lane(server, client) };
    for (const [socket, lane] of [
      [client, this.#lanes.toServer],
      [server, this.#lanes.toClient],
    ] as const) {
      socket.setNoDelay(true);
      socket.on('error', () => undefined);
      // Whoever goes away is missed only when the news can pass.
      socket.on('close', () => {
        lane.send('gone');
        if (client.destroyed && server.destroyed) gone();
      });
    }
  }

  pass(direction: Direction, passing: Passing): void {
    this.#lanes[direction].pass(passing);
  }

  halfClose(direction: Direction): void {
    this.#lanes[direction].send('end');
  }

  cut(): void {
    this.client.resetAndDestroy();
    this.server.resetAndDestroy();
  }
}

/** What goes one way, in its order: bytes, the end of the stream, or that the sender is gone. */
class Lane {
  readonly #waiting: { what: Buffer | 'end' | 'gone'; due: number }[] = [];
  #passing: Passing = { silent: false, delayMs: 0 };
  #isPumping = false;

  constructor(
    from: net.Socket,
    private readonly to: net.Socket,
  ) {
    from.on('data', (data: Buffer) => this.send(data));
    from.on('end', () => this.send('end'));
  }

  pass(passing: Passing): void {
    this.#passing = passing;
    void this.#pump();
  }

  send(what: Buffer | 'end' | 'gone'): void {
    this.#waiting.push({ what, due: performance.now() + this.#passing.delayMs });
    void this.#pump();
  }

  async #pump(): Promise<void> {
    if (this.#isPumping) return;
    this.#isPumping = true;
    for (let next = this.#waiting[0]; next !== undefined && !this.#passing.silent; next = this.#waiting[0]) {
      const wait = next.due - performance.now();
      if (wait > 0 && this.#passing.delayMs > 0) {
        await sleep(Math.min(wait, 20));
        continue;
      }
      this.#waiting.shift();
      if (this.to.destroyed || (this.to.writableEnded && next.what !== 'gone')) continue;
      if (next.what === 'gone') this.to.destroy();
      else if (next.what === 'end') this.to.end();
      else this.to.write(next.what);
    }
    this.#isPumping = false;
  }
}
