import net from 'node:net';

/** A TCP proxy in front of a server, by which a test takes the server away. */
export class TcpProxy {
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();
  #isFrozen = false;
  port = 0;

  /** @param socket the path of a Unix socket to listen at, instead of a port */
  constructor(
    private readonly target: number,
    private readonly socket?: string,
  ) {
    this.#server = net.createServer((client) => {
      const upstream = net.connect(this.target, '127.0.0.1');
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        this.#sockets.add(from);
        from.on('data', (data) => {
          if (!this.#isFrozen) to.write(data);
        });
        from.on('error', () => undefined);
        from.on('close', () => {
          this.#sockets.delete(from);
          to.destroy();
        });
      }
    });
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => {
      if (this.socket === undefined) this.#server.listen(this.port, '127.0.0.1', resolve);
      else this.#server.listen(this.socket, resolve);
    });
    const address = this.#server.address();
    if (typeof address === 'object' && address !== null) this.port = address.port;
  }

  /** The server is gone: connections are cut and refused. */
  async down(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.cut();
    await closed;
  }

  /** Cuts the connections that there are; new ones are taken. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** The server hangs: connections are taken, and nothing is ever answered. */
  freeze(): void {
    this.#isFrozen = true;
  }

  thaw(): void {
    this.#isFrozen = false;
    this.cut();
  }
}
