import type { ChildProcess } from 'node:child_process';

/** Whether the process has ended, by itself or by a signal. */
export function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

/** Waits until the process has ended, at most so long. Returns whether it has. */
export async function waitForEnd(child: ChildProcess, deadlineMs: number): Promise<boolean> {
  if (hasEnded(child)) return true;
  return new Promise((resolve) => {
    const finish = (ended: boolean): void => {
      clearTimeout(timer);
      child.off('exit', onExit);
      resolve(ended);
    };
    const onExit = (): void => finish(true);
    const timer = setTimeout(() => finish(hasEnded(child)), deadlineMs);
    child.once('exit', onExit);
  });
}

/** One step of an ordered end: the signal, and how long the process may take. */
export interface EndStep {
  readonly signal: NodeJS.Signals;
  readonly graceMs: number;
}

/** Ends a process: each signal in turn, until it is gone. */
export async function endProcess(child: ChildProcess, steps: readonly EndStep[]): Promise<void> {
  for (const { signal, graceMs } of steps) {
    if (hasEnded(child)) return;
    child.kill(signal);
    if (await waitForEnd(child, graceMs)) return;
  }
}
