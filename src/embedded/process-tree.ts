import { readFileSync, readdirSync } from 'node:fs';
import { execFileSync } from 'node:child_process';

/** The processes that descend from this one, children before grandchildren. */
export function processesOf(pid: number): number[] {
  const parents = parentsByProcess();
  const children = [...parents].filter(([, parent]) => parent === pid).map(([child]) => child);
  return [...children, ...children.flatMap((child) => processesOf(child))];
}

function parentsByProcess(): Map<number, number> {
  return process.platform === 'linux' ? fromProc() : fromPs();
}

function fromProc(): Map<number, number> {
  const parents = new Map<number, number>();
  for (const name of readdirSync('/proc')) {
    if (!/^[0-9]+$/.test(name)) continue;
    try {
      // "pid (name) state parent ...": the name may hold spaces and parentheses, so count from its end.
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]));
    } catch {
      // It ended while we were reading.
    }
  }
  return parents;
}

function fromPs(): Map<number, number> {
  const lines = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).trim().split('\n');
  return new Map(
    lines.map((line) => {
      const [pid, parent] = line.trim().split(/\s+/);
      return [Number(pid), Number(parent)] as const;
    }),
  );
}
