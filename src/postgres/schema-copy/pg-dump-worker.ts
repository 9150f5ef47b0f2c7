import type { MessagePort } from 'node:worker_threads';

/** What the thread is given: its end of the channel, the gate it waits at, pg_dump's arguments and where its code is. */
export interface DumpThreadData {
  readonly port: MessagePort;
  readonly gate: SharedArrayBuffer;
  readonly args: readonly string[];
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
const { port, gate, args, toolsUrl } = workerData;
const open = new Int32Array(gate);
// The WebAssembly takes its own name from here, and with it its application_name.
process.argv[1] = '/pg_dump';
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
