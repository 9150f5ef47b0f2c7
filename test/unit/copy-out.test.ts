import { EventEmitter } from 'node:events';
import { PassThrough } from 'node:stream';
import fc from 'fast-check';
import type { Connection } from 'pg';
import { describe, expect, it } from 'vitest';
import { CopyOut } from '../../src/postgres/bootstrap/copy/copy-out.js';
import { wireMessage } from '../support/wire-message.js';

/** A connection that delivers these chunks, and what pg got to read of them. */
async function copyOf(chunks: readonly Buffer[]): Promise<{ rows: Buffer; toPg: Buffer; asked: string }> {
  const stream = new PassThrough();
  const toPg: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => toPg.push(Buffer.from(chunk)));
  let asked = '';
  const connection = Object.assign(new EventEmitter(), { stream, query: (sql: string) => (asked = sql) });
  const rows: Buffer[] = [];
  let released = 0;
  const ended = new Promise<void>((resolve, reject) => {
    const copy = new CopyOut('COPY t TO STDOUT', {
      rows: (bytes, release) => {
        rows.push(Buffer.from(bytes));
        release();
        released++;
      },
      ended: resolve,
      failed: reject,
    });
    copy.submit(connection as unknown as Connection);
  });
  for (const chunk of chunks) stream.write(Buffer.from(chunk));
  await ended;
  await new Promise((resolve) => setImmediate(resolve));
  expect(released).toBe(rows.length);
  return { rows: Buffer.concat(rows), toPg: Buffer.concat(toPg), asked };
}

/** Cuts at these places, as a network may. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const ends = [...new Set([...places.map((place) => place % (bytes.length + 1)), bytes.length])].sort((a, b) => a - b);
  return ends.map((end, i) => bytes.subarray(ends[i - 1] ?? 0, end)).filter(({ length }) => length > 0);
}

const row = fc.uint8Array({ maxLength: 40 }).map((bytes) => ({ type: 'd', body: Buffer.from(bytes) }));
const between = fc.constantFrom('N', 'S', 'A').map((type) => ({ type, body: Buffer.from('told in between\0') }));

describe('CopyOut', () => {
  it('gives the rows, and leaves every other byte to pg, however the network cuts them', async () => {
    const messages = fc.array(fc.oneof({ weight: 4, arbitrary: row }, between), { maxLength: 30 });
    await fc.assert(
      fc.asyncProperty(messages, fc.array(fc.nat(2_000), { maxLength: 12 }), async (middle, places) => {
        const begin = wireMessage('H', Buffer.from([1, 0, 0]));
        const end = Buffer.concat([
          wireMessage('c', Buffer.alloc(0)),
          wireMessage('C', Buffer.from('COPY 1\0')),
          wireMessage('Z', Buffer.from('I')),
        ]);
        const bytes = Buffer.concat([begin, ...middle.map(({ type, body }) => wireMessage(type, body)), end]);
        const { rows, toPg, asked } = await copyOf(cut(bytes, places));
        const others = middle.filter(({ type }) => type !== 'd').map(({ type, body }) => wireMessage(type, body));
        expect(asked).toBe('COPY t TO STDOUT');
        expect(rows).toEqual(Buffer.concat(middle.filter(({ type }) => type === 'd').map(({ body }) => body)));
        expect(toPg).toEqual(Buffer.concat([begin, ...others, end]));
      }),
      { numRuns: 300 },
    );
  });
});
