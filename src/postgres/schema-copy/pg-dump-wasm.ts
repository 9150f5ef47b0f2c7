import { createRequire } from 'node:module';
import type { Socket } from 'node:net';
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import { pathToFileURL } from 'node:url';
import { type Database, type Session, closeSession, openSession, withSession } from '../session.js';
import { MessageSplitter, greeting } from './pg-dump-wire.js';
import { DUMP_THREAD, type DumpThreadData, type DumpThreadResult } from './pg-dump-worker.js';

/** The major version of the pg_dump inside @electric-sql/pglite-tools: it reads servers up to this one. */
export const WASM_PG_DUMP_MAJOR = 18;

/**
 * Runs pg_dump as WebAssembly against a real server: for machines without PostgreSQL's client tools. A session of ours
 * logs in (passwords, TLS and all that node-postgres knows); then its socket is relayed to pg_dump in a thread.
 *
 * @param args few: they are put on a stack of 64 kB, which nothing guards
 * @param input its standard input
 * @throws what pg_dump says on its standard error.
 */
export async function runWasmPgDump(
  database: Database,
  args: readonly string[],
  input: string,
  signal?: AbortSignal,
): Promise<string> {
  signal?.throwIfAborted();
  const session = await openSession(database, { purpose: 'schema copy' });
  let pid: number | undefined;
  try {
    const { rows } = await session.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    pid = rows[0]?.pid;
    const parameters = await readParameters(session);
    return await relay(socketOf(session), parameters, { args, input }, signal);
  } catch (error) {
    // A closed socket does not wake a backend that waits for a lock.
    if (signal?.aborted === true && pid !== undefined) await endBackend(database, pid);
    throw error;
  } finally {
    await closeSession(session);
  }
}

/** What a server reports to libpq when a session begins. */
async function readParameters(session: Session): Promise<ReadonlyMap<string, string>> {
  const { rows } = await session.query<{ name: string; value: string }>(`
    SELECT name, setting AS value FROM pg_settings
     WHERE name IN ('server_version', 'server_encoding', 'client_encoding', 'is_superuser', 'DateStyle', 'IntervalStyle',
                    'TimeZone', 'integer_datetimes', 'standard_conforming_strings', 'in_hot_standby',
                    'default_transaction_read_only')
    UNION ALL SELECT 'session_authorization', session_user`);
  return new Map(rows.map((row) => [row.name, row.value]));
}

/** The socket under a session, with node-postgres no longer listening: from here on the answers are pg_dump's. */
function socketOf(session: Session): Socket {
  const { stream } = (session as unknown as { readonly connection: { readonly stream: Socket } }).connection;
  stream.removeAllListeners('data');
  return stream;
}

async function relay(
  socket: Socket,
  parameters: ReadonlyMap<string, string>,
  given: Pick<DumpThreadData, 'args' | 'input'>,
  signal: AbortSignal | undefined,
): Promise<string> {
  const channel = new MessageChannel();
  const gate = new SharedArrayBuffer(4);
  const close = joinSocketAndThread(socket, channel.port1, gate, parameters);
  const workerData: DumpThreadData = {
    port: channel.port2,
    gate,
    ...given,
    // The "require" entry: a file URL is all that an evaluated thread can import.
    toolsUrl: pathToFileURL(createRequire(import.meta.url).resolve('@electric-sql/pglite-tools/pg_dump')).href,
  };
  const thread = new Worker(DUMP_THREAD, {
    eval: true,
    workerData,
    transferList: [channel.port2],
    env: {},
    stdout: true,
    stderr: true,
    execArgv: [],
  });
  const onAbort = (): void => void thread.terminate();
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    const result = await new Promise<DumpThreadResult>((resolve, reject) => {
      thread.once('message', resolve);
      thread.once('error', reject);
      thread.once('exit', (code) => reject(new Error(`the thread of pg_dump ended with ${code}`)));
    });
    if ('error' in result) throw new Error(result.error);
    return result.sql;
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
    await thread.terminate();
    close();
  }
}

/** Messages of a client that the server answers up to ReadyForQuery: Query, Sync, FunctionCall. */
const ANSWERED = new Set(['Q', 'S', 'F']);

/**
 * Sends what the thread writes to the server and wakes the thread when the whole answer is there.
 *
 * @returns what ends it.
 */
function joinSocketAndThread(
  socket: Socket,
  port: MessagePort,
  gate: SharedArrayBuffer,
  parameters: ReadonlyMap<string, string>,
): () => void {
  const open = new Int32Array(gate);
  const fromThread = new MessageSplitter(true);
  const fromServer = new MessageSplitter(false);
  let chunks: Buffer[] = [];
  let unanswered = 0;
  let threadWaits = false;
  let closed = socket.destroyed;

  const answer = (bytes: Uint8Array): void => {
    threadWaits = false;
    // The message first: the thread takes it without waiting once the gate is open.
    port.postMessage(bytes);
    Atomics.store(open, 0, 1);
    Atomics.notify(open, 0);
  };
  const answerWithChunks = (): void => {
    const bytes = new Uint8Array(Buffer.concat(chunks));
    chunks = [];
    answer(bytes);
  };

  const onData = (chunk: Buffer): void => {
    chunks.push(chunk);
    for (const { type } of fromServer.push(chunk)) if (type === 'Z') unanswered--;
    if (threadWaits && unanswered <= 0) answerWithChunks();
  };
  const onClose = (): void => {
    closed = true;
    if (threadWaits) answerWithChunks();
  };
  socket.on('data', onData);
  socket.on('end', onClose);
  socket.on('close', onClose);

  port.on('message', (written: Uint8Array) => {
    const toServer: Buffer[] = [];
    let hello = false;
    for (const { type, bytes } of fromThread.push(written)) {
      if (type === '') hello = true;
      // Terminate: the session is ours to close.
      else if (type !== 'X') {
        toServer.push(bytes);
        if (ANSWERED.has(type)) unanswered++;
      }
    }
    if (hello) return answer(new Uint8Array(greeting(parameters)));
    // libpq reads nothing as the end of the connection.
    if (closed) return answer(new Uint8Array(0));
    if (toServer.length > 0) socket.write(Buffer.concat(toServer));
    if (unanswered > 0) threadWaits = true;
    else answer(new Uint8Array(0));
  });

  return () => {
    port.close();
    socket.removeListener('data', onData);
    socket.removeListener('end', onClose);
    socket.removeListener('close', onClose);
    // What still comes is thrown away; a socket that nobody reads would never see its end.
    socket.resume();
  };
}

async function endBackend(database: Database, pid: number): Promise<void> {
  await withSession(database, { purpose: 'schema copy, cancelled' }, (session) =>
    session.query('SELECT pg_terminate_backend($1)', [pid]),
  ).catch(() => undefined);
}
