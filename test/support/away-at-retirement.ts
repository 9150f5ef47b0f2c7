import { ApplicationFailure } from '@temporalio/common';
import { until } from './migration.js';
import type { ScriptedRun, ScriptedRuns } from './scripted-run.js';

/** A run whose standby window is over, while green can't be reached: its retirement waits. */
export async function beginAway(runs: ScriptedRuns): Promise<{ run: ScriptedRun; back: () => void }> {
  let isAway = true;
  const mayRetire = (): void => {
    if (isAway) throw ApplicationFailure.retryable("green can't be reached\nNext step: mend it", 'ConnectionFailed');
  };
  const run = await runs.begin({ mayRetire }, { standby: { for: '1s' } });
  await until(run.handle, 'told', (s) => s.phase === 'retire' && s.waiting?.for === 'resume');
  return { run, back: () => (isAway = false) };
}
