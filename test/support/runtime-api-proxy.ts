import { connect, createServer, type Server, type Socket } from 'node:net';
import type { AddressInfo } from 'node:net';

/** Stands between a worker and a runtime API, sees every command, and stops the one that a test means. */
export class RuntimeApiProxy {
  readonly commands: string[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #stopAt: { test: (command: string) => boolean; when: 'before' | 'after'; met: () => void } | undefined;

  private constructor(path: string) {
    this.#server = createServer((client) => {
      this.#sockets.add(client);
      client.on('error', () => undefined);
      client.once('data', (data) => void this.#pass(path, client, data));
    });
  }

  static async start(path: string): Promise<RuntimeApiProxy> {
    const proxy = new RuntimeApiProxy(path);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get uri(): string {
    return `tcp://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Settles when such a command is about to be given (it never is), or has been done (its answer never comes). */
  stopAt(test: (command: string) => boolean, when: 'before' | 'after'): Promise<void> {
    return new Promise((met) => (this.#stopAt = { test, when, met }));
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #pass(path: string, client: Socket, data: Buffer): Promise<void> {
    const command = data.toString().trim();
    this.commands.push(command);
    const stop = this.#stopAt?.test(command) === true ? this.#stopAt : undefined;
    if (stop !== undefined) this.#stopAt = undefined;
    if (stop?.when === 'before') return stop.met();
    const answer = await answerOf(path, data);
    if (stop !== undefined) return stop.met();
    client.end(answer);
  }
}

function answerOf(path: string, data: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    const socket = connect({ path });
    socket.on('data', (part) => parts.push(part));
    socket.once('end', () => resolve(Buffer.concat(parts)));
    socket.once('error', reject);
    socket.write(data);
  });
}
