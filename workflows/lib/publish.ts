import { defineSearchAttributeKey } from '@temporalio/common';
import { CancellationScope, condition, patched, setCurrentDetails, upsertSearchAttributes } from '@temporalio/workflow';
import { failureMessage } from './failure.js';
import type { MigrationRun } from './migration-run.js';
import { renderDetails } from './render-details.js';
import type { MigrationStatus } from './status.js';

const PHASE = defineSearchAttributeKey('VerdigrisPhase', 'KEYWORD');
const TRAFFIC = defineSearchAttributeKey('VerdigrisTraffic', 'INT');
const GATE = defineSearchAttributeKey('VerdigrisGate', 'KEYWORD');
const LAG = defineSearchAttributeKey('VerdigrisLagSeconds', 'DOUBLE');

/**
 * Keeps the current details and the search attributes of the run true. Attributes are events: written on change only, and once
 * for all that has changed in a task of the workflow. `told` is called too.
 */
export function publishChanges(run: MigrationRun, told: () => void): void {
  let last: Attributes | undefined;
  let areGathered = false;
  let isChanged = false;
  const upsert = (): void => {
    isChanged = false;
    const next = attributesOf(run.status);
    if (last !== undefined && same(last, next)) return;
    upsertSearchAttributes([
      { key: PHASE, value: next.phase },
      { key: TRAFFIC, value: next.traffic },
      { key: GATE, value: next.gate },
      { key: LAG, value: next.lag },
    ]);
    last = next;
  };
  const publish = (): void => {
    setCurrentDetails(detailsOf(run.status));
    told();
    isChanged = true;
    // Behind the end of the run nothing is waited for.
    if (!areGathered || run.status.outcome !== 'running') upsert();
  };
  run.onChange = publish;
  publish();
  areGathered = patched('search attributes that change together are one event');
  // Conditions are looked at when all else of a task is done.
  const gather = async (): Promise<never> => {
    for (;;) {
      await condition(() => isChanged);
      upsert();
    }
  };
  if (areGathered) void CancellationScope.nonCancellable(gather);
}

/** The text is for people. An error here would fail every task of the run from now on: no rollback would be heard. */
function detailsOf(status: MigrationStatus): string {
  try {
    return renderDetails(status);
  } catch (error) {
    return `## ${status.phase}\n\nNo details: ${failureMessage(error)}. The query \`status\` has them.`;
  }
}

interface Attributes {
  readonly phase: string;
  readonly traffic: number;
  readonly gate: string;
  readonly lag: number | null;
}

function attributesOf(status: MigrationStatus): Attributes {
  return {
    phase: status.outcome === 'running' ? (status.rollingBack === null ? status.phase : 'rollback') : status.outcome,
    traffic: Math.round(status.greenReadPercent),
    gate: status.waiting === null ? 'none' : (status.waiting.gate ?? status.waiting.for),
    lag: status.lagSeconds,
  };
}

function same(a: Attributes, b: Attributes): boolean {
  return a.phase === b.phase && a.traffic === b.traffic && a.gate === b.gate && a.lag === b.lag;
}
