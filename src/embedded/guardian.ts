import { spawn, type ChildProcess } from 'node:child_process';
import { tsxArguments } from './tsx-process.js';

/*
 * Servers run in process groups of their own, so that Ctrl-C in the terminal does not end them before our ordered
 * shutdown does. The price: they would outlive a parent that dies at once (SIGKILL, a crash). The guardian is a small
 * process that pays it back: it holds the other end of a pipe, and when that closes it ends what is still guarded.
 */

/** What the guardian ends and removes when this process is gone. */
export interface Guarded {
  readonly pid: number;
  /** The signal of an ordered end; SIGKILL follows after `graceMs`. */
  readonly signal: NodeJS.Signals;
  readonly graceMs: number;
  /** Removed once the process has ended. */
  readonly folder?: string;
}

export type GuardianMessage = { readonly guard: Guarded } | { readonly release: number };

let guardian: ChildProcess | undefined;

/** Has the guardian end this process (and remove its folder) should our own process die without doing it. */
export function guard(guarded: Guarded): void {
  send({ guard: guarded });
}

/** The process has ended in order: the guardian forgets it. */
export function release(pid: number): void {
  send({ release: pid });
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
