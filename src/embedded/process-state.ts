import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** Whether the process is there and runs; one that has ended and is not buried yet does not. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
  return describeProcess(pid).state !== 'Z';
}

export interface ProcessState {
  /** Undefined when there is no such process. */
  readonly parent?: number;
  /** One letter, as ps shows it: Z has ended and is not buried yet. */
  readonly state?: string;
  /** With its arguments. */
  readonly command: string;
}

/** What the operating system knows of a process. */
export function describeProcess(pid: number): ProcessState {
  try {
    return process.platform === 'linux' ? fromProc(pid) : fromPs(pid);
  } catch {
    return { command: '' };
  }
}

function fromProc(pid: number): ProcessState {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // "pid (name) state parent ...": the name may hold spaces and parentheses, so count from its end.
  const [state = '', parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  return { parent: Number(parent), state, command };
}

function fromPs(pid: number): ProcessState {
  const line = execFileSync('ps', ['-o', 'ppid=,state=,args=', '-p', String(pid)], { encoding: 'utf8' }).trim();
  const [, parent, state = '', command = ''] = /^(\d+)\s+(\S)\S*\s+(.*)$/.exec(line) ?? [];
  return { parent: Number(parent), state, command };
}
