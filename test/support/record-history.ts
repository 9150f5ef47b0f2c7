import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { promisify } from 'node:util';
import type { WorkflowHandle } from '@temporalio/client';
import { testTemporal } from './temporal.js';

/** Keeps the history of a run for the replay tests, while histories are recorded (`npm run record-histories`). */
export async function recordHistory({ workflowId }: WorkflowHandle, name: string): Promise<void> {
  if (process.env['VERDIGRIS_RECORD_HISTORIES'] === undefined) return;
  const { cliPath, address } = testTemporal();
  const words = ['workflow', 'show', '--workflow-id', workflowId, '--output', 'json', '--address', address];
  const { stdout } = await promisify(execFile)(cliPath, words, { maxBuffer: 64 * 2 ** 20 });
  const history = JSON.stringify(JSON.parse(stdout), asKept);
  writeFileSync(new URL(`../histories/${name}.json`, import.meta.url), `${history}\n`);
}

/** What no replay reads. */
const LEFT_OUT: ReadonlySet<string> = new Set(['workerVersion', 'taskId', 'requestId']);

/** Small, and without what belongs to the machine that recorded it: names of processes, paths in stack traces. */
function asKept(this: unknown, key: string, value: unknown): unknown {
  // Each has the whole plan, and a replay compares no arguments.
  if (LEFT_OUT.has(key) || (key === 'input' && isActivity(this))) return undefined;
  if (key === 'identity') return 'worker';
  if (key === 'stackTrace') return '';
  // Sticky task queues are named after the process: 123@host:uuid
  return typeof value === 'string' ? value.replace(/^\d+@\S+$/, 'worker') : value;
}

function isActivity(attributes: unknown): boolean {
  return typeof attributes === 'object' && attributes !== null && 'activityType' in attributes;
}
