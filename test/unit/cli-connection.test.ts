import { createServer, type Http2Server } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { run } from '../../src/cli/run.js';

/** In place of a Temporal server that lets nobody in: which key is good, a test's own server does not ask. */
let server: Http2Server | undefined;
afterEach(() => server?.close());

async function answering(status: number, message: string): Promise<string> {
  server = createServer().on('stream', (stream) => {
    const trailersOnly = { 'content-type': 'application/grpc', 'grpc-status': status, 'grpc-message': message };
    stream.respond({ ':status': 200, ...trailersOnly }, { endStream: true });
  });
  const listening = server.listen(0, '127.0.0.1');
  await new Promise((resolve) => listening.once('listening', resolve));
  return `127.0.0.1:${(listening.address() as AddressInfo).port}`;
}

describe('a Temporal server that answers', () => {
  it.each([
    [16, 'Request unauthorized.'],
    [7, 'Namespace orders is not for this certificate.'],
  ])('with the refusal %i is not said to be away', async (status, message) => {
    const address = await answering(status, message);
    const notes: string[] = [];
    const code = await run(['rollback', 'orders', '--by', 'ada', '--reason', 'why', '--address', address], {
      out: (text) => notes.push(text),
      note: (text) => notes.push(text),
    });
    const said = notes.join('\n');
    expect(code).toBe(2);
    expect(said).toContain(`the Temporal server at ${address} refuses this client (${message})`);
    expect(said).toMatch(/next step: .*TEMPORAL_API_KEY/);
    expect(said).not.toContain('start-dev');
  });
});
