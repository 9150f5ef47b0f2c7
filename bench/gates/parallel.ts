import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import type { Green } from './green.js';
import type { RunOfRule } from './simulate.js';

/** Runs `first` up to, not including, `end` of one kind at one rate. */
export interface Chunk {
  readonly green: Green;
  readonly readsPerSecond: number;
  readonly seed: number;
  readonly first: number;
  readonly end: number;
}

export interface Simulated {
  readonly chunk: Chunk;
  readonly runs: readonly RunOfRule[];
}

/** Simulates the chunks in as many processes as there are processors; which one does what changes nothing. */
export async function simulateAll(chunks: readonly Chunk[], onDone: (done: Simulated) => void): Promise<void> {
  const left = [...chunks];
  const processes = Array.from({ length: Math.min(availableParallelism(), left.length) }, () =>
    oneProcess(left, onDone),
  );
  await Promise.all(processes);
}

function oneProcess(left: Chunk[], onDone: (done: Simulated) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = fork(new URL('simulating-process.ts', import.meta.url));
    const next = (): void => {
      const chunk = left.shift();
      if (chunk === undefined) child.disconnect();
      else child.send(chunk);
    };
    child.on('message', (done: Simulated) => {
      onDone(done);
      next();
    });
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      if (code === 0) resolve();
      else reject(new Error(`a simulating process has ended: ${signal ?? code}`));
    });
    next();
  });
}
