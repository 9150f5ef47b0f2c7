import type { Chunk, Simulated } from './parallel.js';
import { simulateRun } from './simulate.js';

/* Simulates the runs that it is sent, until the other process has no more. */

process.on('message', (chunk: Chunk) => {
  const { green, readsPerSecond, seed, first, end } = chunk;
  const runs = Array.from({ length: end - first }, (_, i) =>
    simulateRun(green, readsPerSecond, seed * 1_000_003 + first + i),
  );
  const done: Simulated = { chunk, runs: runs.flat() };
  process.send?.(done);
});
