import { rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { isRunning } from './process-state.js';
import type { GuardedProcess, GuardianMessage } from './guardian.js';

/* The guardian's own process: see guardian.ts. It ends when the pipe closes, after it has cleaned up. */

const processes = new Map<number, GuardedProcess>();
const folders = new Set<string>();
let patient = true;

for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line) as GuardianMessage;
  if ('guard' in message) processes.set(message.guard.pid, message.guard);
  else if ('release' in message) processes.delete(message.release);
  else if ('guardFolder' in message) folders.add(message.guardFolder);
  else if ('releaseFolder' in message) folders.delete(message.releaseFolder);
  else patient = false;
}

// What was started last uses what was started first: the application before its database.
for (const { pid, signal, graceMs } of [...processes.values()].reverse()) {
  send(pid, signal);
  const deadline = Date.now() + (patient ? graceMs : 200);
  while (isRunning(pid) && Date.now() < deadline) await sleep(50);
  send(-pid, 'SIGKILL');
}
for (const folder of folders) rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It is gone already, which is what we want.
  }
}
