import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { EmbeddedError } from '../embedded-error.js';
import { guard, release } from '../guardian.js';
import { lastLines } from '../last-lines.js';
import { endProcess } from '../process-end.js';
import { tsxArguments } from '../tsx-process.js';
import type { ShopAnswers, ShopReply, ShopRequest } from './shop-messages.js';

export interface ShopProcessOptions {
  readonly migration: string;
  readonly blueUri: string;
  readonly greenUri: string;
  /** Requests a second. */
  readonly rate: number;
  /** Where it writes down what it asked for and was told. */
  readonly ledgerFile: string;
  /** Where its output goes. */
  readonly logFile: string;
}

/** The running sample application, a process of its own. */
export interface ShopProcess {
  /** Port of its /status and /metrics on 127.0.0.1. */
  readonly port: number;
  ask<R extends ShopRequest>(request: R): Promise<ShopAnswers[R['ask']]>;
  stop(): Promise<void>;
}

/** Starts the sample application and waits until it serves. */
export async function startShop(options: ShopProcessOptions): Promise<ShopProcess> {
  const output = openSync(options.logFile, 'a');
  const child = spawn(
    process.execPath,
    tsxArguments(
      new URL('./main.ts', import.meta.url),
      ...['--migration', options.migration, '--rate', String(options.rate), '--ledger', options.ledgerFile],
    ),
    {
      stdio: ['ignore', output, output, 'ipc'],
      detached: true,
      env: { ...process.env, SHOP_BLUE_URL: options.blueUri, SHOP_GREEN_URL: options.greenUri },
    },
  );
  closeSync(output);
  if (child.pid !== undefined) guard({ pid: child.pid, signal: 'SIGTERM', graceMs: 5_000 });

  const waiting = new Map<number, { resolve: (answer: unknown) => void; reject: (error: Error) => void }>();
  const gone = (): void => {
    for (const { reject } of waiting.values()) reject(new Error('the sample application has ended'));
    waiting.clear();
  };
  child.on('exit', gone);
  child.on('error', gone);
  const port = await new Promise<number>((resolve, reject) => {
    child.once('exit', () => reject(didNotStart(options.logFile)));
    child.on('message', (reply: ShopReply) => {
      if ('ready' in reply) return resolve(reply.ready.port);
      const asker = waiting.get(reply.id);
      waiting.delete(reply.id);
      if ('error' in reply) asker?.reject(new Error(reply.error));
      else asker?.resolve(reply.answer);
    });
  });

  let lastId = 0;
  return {
    port,
    ask: <R extends ShopRequest>(request: R) =>
      new Promise<ShopAnswers[R['ask']]>((resolve, reject) => {
        const id = ++lastId;
        // The reply belongs to the question by its id, and so its type to the type of the question.
        waiting.set(id, { resolve: (answer) => resolve(answer as ShopAnswers[R['ask']]), reject });
        child.send({ ...request, id }, (error) => {
          if (error !== null) reject(error);
        });
      }),
    stop: () => stopShop(child),
  };
}

function didNotStart(logFile: string): EmbeddedError {
  return new EmbeddedError(`the sample application did not start:\n${lastLines(logFile)}`, 'see the lines above');
}

async function stopShop(child: ChildProcess): Promise<void> {
  await endProcess(child, [
    { signal: 'SIGTERM', graceMs: 10_000 },
    { signal: 'SIGKILL', graceMs: 2_000 },
  ]);
  if (child.pid !== undefined) release(child.pid);
}
