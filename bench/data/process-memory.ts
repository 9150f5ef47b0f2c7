import { readFileSync, writeFileSync } from 'node:fs';
import { processesOf } from '../../src/embedded/process-tree.js';

const SAMPLE_MS = 200;

export interface PeakMemory {
  /** The process with all that it has started: the largest sum of resident sets that was seen. */
  readonly family: number;
  /** The process alone, exactly as the kernel has recorded it. */
  readonly own: number;
  /** The process alone as the watch began. */
  readonly atStart: number;
}

/** Watches the memory of a process and of what it starts. */
export interface MemoryWatch {
  /** Ends the watch and tells in bytes what it saw; null where /proc can't say. Safe to call again. */
  stop(): PeakMemory | null;
}

/** Begins to watch. What the process took before, such as for compiling at its start, does not count. */
export function watchMemory(pid: number): MemoryWatch {
  resetHighWaterMark(pid);
  const atStart = statusField(pid, 'VmRSS') ?? 0;
  let family = atStart;
  let own = atStart;
  const look = (): void => {
    own = Math.max(own, statusField(pid, 'VmHWM') ?? 0);
    const all = [pid, ...familyOf(pid)].map((one) => statusField(one, 'VmRSS') ?? 0);
    family = Math.max(
      own,
      family,
      all.reduce((a, b) => a + b, 0),
    );
  };
  look();
  const timer = setInterval(look, SAMPLE_MS);
  return {
    stop: () => {
      clearInterval(timer);
      look();
      return family === 0 ? null : { family, own, atStart };
    },
  };
}

/** VmHWM begins anew: see clear_refs in proc(5). */
function resetHighWaterMark(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/clear_refs`, '5');
  } catch {
    // Another system, or not our process: the mark is that of its whole life.
  }
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
