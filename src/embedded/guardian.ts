import { spawn, type ChildProcess } from 'node:child_process';
import { tsxArguments } from './tsx-process.js';

/*
 * Servers run in process groups of their own, so that Ctrl-C in the terminal does not end them before our ordered
 * shutdown does. The price: they would outlive a parent that dies at once (SIGKILL, a crash). The guardian is a small
 * process that pays it back: it holds the other end of a pipe, and when that closes it ends what is still guarded and
 * removes its folders.
 */

export interface GuardedProcess {
  readonly pid: number;
  /** The signal of an ordered end; SIGKILL follows after `graceMs`. */
  readonly signal: NodeJS.Signals;
  readonly graceMs: number;
}

export type GuardianMessage =
  | { readonly guard: GuardedProcess }
  | { readonly release: number }
  | { readonly guardFolder: string }
  | { readonly releaseFolder: string }
  | { readonly abandon: true };

let guardian: ChildProcess | undefined;

/** Has the guardian end this process should our own process die without doing it. */
export function guard(guarded: GuardedProcess): void {
  send({ guard: guarded });
}

/** The process has ended in order: the guardian forgets it. */
export function release(pid: number): void {
  send({ release: pid });
}

/** Has the guardian remove this folder should our own process die without doing it. */
export function guardFolder(folder: string): void {
  send({ guardFolder: folder });
}

export function releaseFolder(folder: string): void {
  send({ releaseFolder: folder });
}

/** We are about to exit without an ordered end: the guardian kills what is left without patience. */
export function abandon(): void {
  send({ abandon: true });
}

function send(message: GuardianMessage): void {
  guardian ??= startGuardian();
  guardian.stdin?.write(`${JSON.stringify(message)}\n`);
}

function startGuardian(): ChildProcess {
  const child = spawn(process.execPath, tsxArguments(new URL('./guardian-main.ts', import.meta.url)), {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
    cwd: '/',
  });
  // Neither the guardian nor its pipe keeps this process alive; a guardian that was killed is no reason to fail.
  child.on('error', () => undefined);
  child.unref();
  child.stdin.on('error', () => undefined);
  if ('unref' in child.stdin && typeof child.stdin.unref === 'function') child.stdin.unref();
  return child;
}
