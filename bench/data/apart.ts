import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { describeProcess } from '../../src/embedded/process-state.js';
import { processesOf } from '../../src/embedded/process-tree.js';
import { NotMeasured } from './bench.js';

/*
 * In production blue is a server of its own. On one machine it is given half of the processors, which it shares with
 * the application; green, the worker, Temporal and whatever copies have the other half. What the application notices
 * then is what is done to blue, and not what green's index builds take from processors that it would never share.
 */

/**
 * Keeps blue and the application on one half of the processors and everything else that this process has started on the
 * other half; what they start later follows them.
 *
 * @returns gives every process all processors again.
 * @throws NotMeasured where the operating system has no taskset, or only one processor.
 */
export function keepBlueApart(): () => void {
  const count = availableParallelism();
  if (count < 2) throw new NotMeasured('blue can be kept apart on two processors and more only');
  const half = Math.ceil(count / 2);
  const ours = [process.pid, ...processesOf(process.pid)];
  const isBlue = (pid: number): boolean => /bench-blue|writer-main/.test(describeProcess(pid).command);
  const blues = new Set(ours.filter(isBlue).flatMap((pid) => [pid, ...processesOf(pid)]));
  for (const pid of ours) pin(pid, blues.has(pid) ? `0-${half - 1}` : `${half}-${count - 1}`);
  return () => {
    for (const pid of [process.pid, ...processesOf(process.pid)]) pin(pid, `0-${count - 1}`);
  };
}

function pin(pid: number, processors: string): void {
  try {
    // With all its threads.
    execFileSync('taskset', ['-a', '-c', '-p', processors, String(pid)], { stdio: 'ignore' });
  } catch (error) {
    if (describeProcess(pid).command === '') return;
    throw new NotMeasured(`taskset can't move a process: ${error instanceof Error ? error.message : String(error)}`);
  }
}
