import { readFileSync } from 'node:fs';
import { processesOf } from '../../src/embedded/process-tree.js';

const SAMPLE_MS = 200;

/** Watches the memory of a process and of what it starts. */
export interface MemoryWatch {
  /**
   * Ends the watch. The largest resident set of the whole family in bytes: of one process exactly as the kernel has
   * recorded it, of several the largest sum that was seen. Null where /proc can't say.
   */
  stop(): number | null;
}

/** Begins to watch; call stop() before the process is gone, or what the kernel recorded is gone with it. */
export function watchMemory(pid: number): MemoryWatch {
  let peak: number | null = null;
  const look = (): void => {
    const highest = statusField(pid, 'VmHWM');
    const family = [pid, ...familyOf(pid)].map((one) => statusField(one, 'VmRSS') ?? 0);
    const sum = family.reduce((a, b) => a + b, 0);
    if (highest === null && sum === 0) return;
    peak = Math.max(peak ?? 0, highest ?? 0, sum);
  };
  look();
  const timer = setInterval(look, SAMPLE_MS);
  return {
    stop: () => {
      clearInterval(timer);
      look();
      return peak;
    },
  };
}

function familyOf(pid: number): number[] {
  try {
    return processesOf(pid);
  } catch {
    return [];
  }
}

/** A size of /proc/<pid>/status in bytes: VmRSS is the resident set, VmHWM the largest that it has been. */
function statusField(pid: number, field: 'VmRSS' | 'VmHWM'): number | null {
  try {
    const [, kilobytes] =
      new RegExp(`^${field}:\\s+([0-9]+) kB$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
    return kilobytes === undefined ? null : Number(kilobytes) * 1_024;
  } catch {
    return null;
  }
}
