import { createServer } from 'node:net';

/**
 * A TCP port of 127.0.0.1 on which nothing listens now. Another process may take it before the caller does, so callers
 * start their server again with another port when it says that the address is in use.
 */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.unref();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => {
        if (address === null || typeof address === 'string') reject(new Error('the probe has no TCP port'));
        else resolve(address.port);
      });
    });
  });
}
