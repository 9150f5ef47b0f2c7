import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Connection, Submittable } from 'pg';
import { afterEach, describe, expect, it } from 'vitest';
import { CopyFailure, streamRows } from '../../src/postgres/bootstrap/copy/copy-stream.js';
import { rowSocket } from '../../src/postgres/bootstrap/copy/row-socket.js';
import type { Session } from '../../src/postgres/session.js';
import { wireMessage } from '../support/wire-message.js';

/* Both servers are ours here, so that green is slower than blue and every byte that it gets can be looked at. */

const open: { close(): void }[] = [];

afterEach(() => {
  for (const each of open.splice(0)) each.close();
});

/** A session with a server that does `serve` with each connection. */
async function sessionWith(serve: (socket: Socket) => void): Promise<{ session: Session; submitted: Submittable[] }> {
  const server: Server = createServer(serve).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const socket = rowSocket();
  socket.on('data', () => undefined);
  socket.connect((server.address() as AddressInfo).port, '127.0.0.1');
  await once(socket, 'connect');
  open.push({ close: () => void (socket.destroy(), server.close()) });
  const submitted: Submittable[] = [];
  const query = (what: Submittable): Submittable => {
    submitted.push(what);
    what.submit({ stream: socket, query: () => socket.write('go') } as unknown as Connection);
    return what;
  };
  return { session: { query } as unknown as Session, submitted };
}

/** Takes what comes in small sips, so that the sender's buffers are full all the time. */
function slowly(socket: Socket, got: (bytes: Buffer) => void): void {
  socket.on('data', (bytes) => {
    got(bytes);
    socket.pause();
    setTimeout(() => socket.resume(), 1);
  });
}

/** Of CopyData messages one after the other: their bytes without headers, and what comes behind them. */
function withoutHeaders(bytes: Buffer): { data: Buffer; rest: string } {
  const data: Buffer[] = [];
  let at = 0;
  while (bytes[at] === 'd'.charCodeAt(0)) {
    const end = at + 1 + bytes.readUInt32BE(at + 1);
    data.push(bytes.subarray(at + 5, end));
    at = end;
  }
  return { data: Buffer.concat(data), rest: bytes.toString('latin1', at, at + 1) };
}

describe('rows that pass through buffers which are used again', () => {
  it('are the same bytes, though green takes them more slowly than blue gives them', async () => {
    const rows = Array.from({ length: 20_000 }, (_, i) => randomBytes(i % 7 === 0 ? 4_000 : 300));
    const blue = await sessionWith((socket) => {
      socket.once('data', () => {
        socket.write(wireMessage('H', Buffer.from([1, 0, 0])));
        for (const row of rows) socket.write(wireMessage('d', row));
        socket.write(wireMessage('c', Buffer.alloc(0)));
      });
    });
    const got: Buffer[] = [];
    const green = await sessionWith((socket) => slowly(socket, (bytes) => got.push(bytes)));
    let told = 0;
    const onBytes = (bytes: number): number => {
      told += bytes;
      return 0;
    };
    const copied = streamRows(blue.session, '', green.session, '', { signal: new AbortController().signal, onBytes });
    // Rows that come before green is ready for them wait.
    await sleep(20);
    const target = green.submitted[0] as unknown as { handleCopyInResponse(): void; handleReadyForQuery(): void };
    target.handleCopyInResponse();
    const whole = Buffer.concat(rows);
    const arrived = (): Buffer => Buffer.concat(got).subarray('go'.length);
    await expect.poll(() => withoutHeaders(arrived()).rest, { timeout: 20_000 }).toBe('c');
    target.handleReadyForQuery();
    await copied;
    expect(told).toBe(whole.length);
    expect(withoutHeaders(arrived()).data.equals(whole)).toBe(true);
  });

  it('stop when one side fails: green is told that they do not count, and blue is read to its end', async () => {
    const blue = await sessionWith((socket) => {
      socket.once('data', () => {
        socket.write(wireMessage('H', Buffer.from([1, 0, 0])));
        for (let i = 0; i < 1_000; i++) socket.write(wireMessage('d', randomBytes(2_000)));
      });
    });
    const got: Buffer[] = [];
    const green = await sessionWith((socket) => slowly(socket, (bytes) => got.push(bytes)));
    const options = { signal: new AbortController().signal, onBytes: () => 0 };
    const copied = streamRows(blue.session, '', green.session, '', options);
    (green.submitted[0] as unknown as { handleCopyInResponse(): void }).handleCopyInResponse();
    await sleep(20);
    (blue.submitted[0] as unknown as { handleError(error: Error): void }).handleError(new Error('of blue'));
    const error: unknown = await copied.catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(CopyFailure);
    expect(error).toMatchObject({ side: 'blue', message: 'of blue' });
    await expect.poll(() => Buffer.concat(got).includes('of blue\0'), { timeout: 10_000 }).toBe(true);
  });
});
