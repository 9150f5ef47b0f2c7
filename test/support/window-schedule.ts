import type { WindowLook } from '../../activities/windows.js';
import type { PlanInput } from '../../src/plan/schema.js';
import type { Overrides, ScriptedRun, ScriptedRuns } from './scripted-run.js';

const changesAtText = 'Tue 2026-11-24 01:00 Europe/Berlin';

/** A window whose times are written by the test. */
export class Schedule {
  /** Open or closed from that moment on. */
  changes: [at: number, open: boolean][];

  constructor(...changes: [inMs: number, open: boolean][]) {
    this.changes = changes.map(([inMs, open]) => [Date.now() + inMs, open]);
  }

  look(): WindowLook {
    const now = Date.now();
    const open = this.changes.filter(([at]) => at <= now).at(-1)?.[1] ?? true;
    const next = this.changes.find(([at]) => at > now)?.[0] ?? now + 3_600_000;
    return { open, changesAt: new Date(next).toISOString(), changesAtText };
  }
}

/** A window that is open or closed now, and changes after `ms`. */
export function soon(open: boolean, ms: number): WindowLook {
  return { open, changesAt: new Date(Date.now() + ms).toISOString(), changesAtText };
}

/** A run with a window for that. */
export function beginInWindow(
  runs: ScriptedRuns,
  what: 'replicate' | 'migrate' | 'traffic' | 'promote',
  overrides: Overrides,
): Promise<ScriptedRun> {
  const windows: PlanInput['windows'] = { timezone: 'Europe/Berlin', [what]: ['Mon-Fri 01:00-05:00'] };
  return runs.begin(overrides, { windows });
}
