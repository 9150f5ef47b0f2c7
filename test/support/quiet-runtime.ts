import { Runtime } from '@temporalio/worker';

let isQuiet = false;

/**
 * Has the workers of this process log nothing beside the tests' own lines. Of a process of several test files the first one that
 * begins sets it: it can't be set again, nor once a worker has begun without it.
 */
export function quietRuntime(): void {
  if (isQuiet) return;
  isQuiet = true;
  Runtime.install({
    logger: { log() {}, trace() {}, debug() {}, info() {}, warn() {}, error() {} },
    shutdownSignals: [],
  });
}
