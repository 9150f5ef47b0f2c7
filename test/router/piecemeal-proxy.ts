import net from 'node:net';
import { pause } from './sides.js';

const ERROR = 'E'.charCodeAt(0);

/**
 * Hands on each message of a server's by itself, and what follows an error some milliseconds later, as TLS and networks
 * may; or never, as a link that begins to swallow packets there.
 */
export class PiecemealProxy {
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();

  private constructor(target: number, swallows: boolean) {
    this.#server = net.createServer((client) => {
      const server = net.connect({ port: target, host: '127.0.0.1', noDelay: true });
      client.setNoDelay(true);
      for (const [socket, other] of [
        [client, server],
        [server, client],
      ] as const) {
        this.#sockets.add(socket);
        socket.on('error', () => undefined);
        socket.on('close', () => {
          this.#sockets.delete(socket);
          other.destroy();
        });
      }
      client.on('data', (data) => server.write(data));
      void piecemeal(server, client, swallows);
    });
  }

  static async start(target: number, { swallows = false } = {}): Promise<PiecemealProxy> {
    const proxy = new PiecemealProxy(target, swallows);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('the proxy does not listen');
    return address.port;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

async function piecemeal(server: net.Socket, client: net.Socket, swallows: boolean): Promise<void> {
  let waiting: Buffer = Buffer.alloc(0);
  let isSilent = false;
  try {
    for await (const data of server as AsyncIterable<Buffer>) {
      waiting = Buffer.concat([waiting, data]);
      while (waiting.length >= 5 && waiting.length > waiting.readInt32BE(1)) {
        const length = waiting.readInt32BE(1) + 1;
        if (!isSilent) client.write(waiting.subarray(0, length));
        if (waiting[0] === ERROR) await pause(10);
        isSilent ||= swallows && waiting[0] === ERROR;
        waiting = waiting.subarray(length);
      }
    }
  } catch {
    // The server's connection has ended; so does the client's.
  }
}
