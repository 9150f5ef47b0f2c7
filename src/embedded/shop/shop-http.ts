import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface ShopPages {
  /** Prometheus' text form. */
  readonly metrics: () => Promise<string>;
  readonly status: () => object;
}

/** Serves `/metrics` for Prometheus and `/status` (JSON) for people. Port 0: a free one. */
export async function serveShop(
  pages: ShopPages,
  host: string,
  port: number,
): Promise<{ server: Server; port: number }> {
  const server = createServer((request, response) => {
    const page = request.url?.split('?')[0];
    if (page === '/metrics') {
      pages.metrics().then(
        (text) => response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }).end(text),
        () => response.writeHead(500).end(),
      );
    } else if (page === '/' || page === '/status') {
      response
        .writeHead(200, { 'content-type': 'application/json' })
        .end(`${JSON.stringify(pages.status(), null, 2)}\n`);
    } else response.writeHead(404).end('try /status or /metrics\n');
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  });
  return { server, port: (server.address() as AddressInfo).port };
}
