import { rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Guarded, GuardianMessage } from './guardian.js';

/* The guardian's own process: see guardian.ts. It ends when the pipe closes, after it has cleaned up. */

const guarded = new Map<number, Guarded>();

for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line) as GuardianMessage;
  if ('guard' in message) guarded.set(message.guard.pid, message.guard);
  else guarded.delete(message.release);
}

// What was started last uses what was started first: the application before its database.
for (const entry of [...guarded.values()].reverse()) {
  signal(entry.pid, entry.signal);
  const deadline = Date.now() + entry.graceMs;
  while (isAlive(entry.pid) && Date.now() < deadline) await sleep(50);
  signal(-entry.pid, 'SIGKILL');
  if (entry.folder !== undefined)
    rmSync(entry.folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It is gone already, which is what we want.
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
