import type { MessagePort } from 'node:worker_threads';

/** What the thread is given: its end of the channel, the gate it waits at, pg_dump's arguments and standard input, and where its code is. */
export interface DumpThreadData {
  readonly port: MessagePort;
  readonly gate: SharedArrayBuffer;
  readonly args: readonly string[];
  readonly input: string;
  readonly toolsUrl: string;
}

/** What the thread answers at its end. */
export type DumpThreadResult = { readonly sql: string } | { readonly error: string };

/**
 * The program of the thread that runs pg_dump as WebAssembly. The WebAssembly knows only blocking reads: so each write
 * is handed to the main thread, and this one sleeps at the gate until the server's whole answer is there.
 *
 * A string, not a file of its own: the same then works from TypeScript sources (tsx, vitest) and from dist.
 */
export const DUMP_THREAD = `
'use strict';
const { workerData, parentPort, receiveMessageOnPort } = require('node:worker_threads');
const { port, gate, args, input, toolsUrl } = workerData;
const open = new Int32Array(gate);
// The WebAssembly takes its own name from here, and with it its application_name.
process.argv[1] = '/pg_dump';
// It knows no file of the machine, but reads its standard input so: by blocks that become text one by one, so none ends within a letter.
const fs = require('node:fs');
const { readSync } = fs;
const STDIN = -1;
let unread = Buffer.from(input);
Object.defineProperty(process, 'stdin', { value: { fd: STDIN } });
fs.readSync = (fd, block, ...others) => {
  if (fd !== STDIN) return readSync(fd, block, ...others);
  let length = Math.min(unread.length, block.length);
  while (length < unread.length && (unread[length] & 0xc0) === 0x80) length--;
  unread.copy(block, 0, 0, length);
  unread = unread.subarray(length);
  return length;
};
const connection = {
  query: async () => ({ rows: [{ search_path: '' }] }),
  exec: async () => {},
  execProtocolRawStream(bytes, { onRawData }) {
    Atomics.store(open, 0, 0);
    port.postMessage(bytes.slice()); // a copy: the bytes belong to the WebAssembly's memory
    Atomics.wait(open, 0, 0);
    const answer = receiveMessageOnPort(port).message;
    if (answer.length > 0) onRawData(answer);
  },
};
import(toolsUrl)
  .then(({ pgDump }) => pgDump({ pg: connection, args }))
  .then((file) => file.text())
  .then((sql) => parentPort.postMessage({ sql }))
  .catch((error) => parentPort.postMessage({ error: String(error?.message ?? error?.name ?? error) }));
`;
