import type { FilledViews } from '../../activities/copy-schema.js';
import type { Evidence } from './evidence.js';
import { lagNow, type MigrationStatus } from './status.js';

/**
 * What somebody who approves should know, line by line: what holds the run, alarms that stand, the newest answer of each
 * gate with its numbers, lag, verification, and what the way back would cost. Each with the time of which it is: a question may be open for days, and
 * nothing is measured anew for it.
 */
export function approvalEvidence(status: MigrationStatus, evidence: readonly Evidence[]): string[] {
  const { verification, rollback } = status;
  return [
    ...standing(status),
    `writes on ${status.writesOn}, reads of ${status.greenReadPercent} % of the users on green`,
    ...newest(evidence).map(
      ({ where, metric, outcome, because, at, dryRun }) =>
        `gate ${metric}: ${outcome}${dryRun === true ? ' (dry run)' : ''}, ${because} (${where}, ${at})`,
    ),
    lagLine(status),
    verification === null
      ? 'verification: not done yet'
      : `verification: ${verification.differingRows} of ${verification.rowsVerified} rows differ (${(verification.again ?? verification).at})`,
    `rollback: ${rollback.safe ? 'safe' : 'NOT safe'}, ${rollback.loses === undefined ? rollback.why : `it would lose ${rollback.loses}`}${status.rollbackAt === undefined ? '' : ` (${status.rollbackAt})`}`,
  ];
}

/** Whoever is asked by a link or a notification sees nothing else of the status. What is over is not told. */
function standing({ held = null, alarms = [] }: MigrationStatus): string[] {
  return [
    ...(held === null ? [] : [`HELD since ${held.since}: ${held.why}`]),
    ...alarms.map(({ about, since, why, next }) => `ALARM (${about}) since ${since}: ${why}. Next step: ${next}`),
  ];
}

function lagLine(status: MigrationStatus): string {
  const { lagAt, promotion } = status;
  const lagSeconds = lagNow(status);
  if (lagSeconds === null) return `lag: not measured ${promotion === null ? 'yet' : 'since writes moved'}`;
  return `lag: ${lagSeconds.toFixed(3)} s (${lagAt ?? 'when is not known'})`;
}

/** The last evidence of each metric, of the last stage that has any. */
function newest(evidence: readonly Evidence[]): Evidence[] {
  const last = evidence.at(-1);
  if (last === undefined) return [];
  const byMetric = new Map<string, Evidence>();
  for (const one of evidence) if (one.where === last.where) byMetric.set(one.metric, one);
  return [...byMetric.values()];
}

/** What readers of green will find in its materialized views. When they were refreshed since, PostgreSQL does not know. */
export function viewsEvidence(filled: FilledViews | null): string[] {
  if (filled === null) return [];
  return [
    `materialized views: on green ${filled.views} hold what they were filled with at ${filled.at}, where nobody has refreshed them since (REFRESH MATERIALIZED VIEW on green)`,
  ];
}

/** What a promotion gives up: once something is written into these tables, a rollback leaves it on green. */
export function tablesOfGreenEvidence(tables: readonly string[]): string[] {
  if (tables.length === 0) return [];
  return [
    `tables that blue does not have: what is written into ${tables.join(', ')} once green serves has no way back, and a rollback asks for its loss then`,
  ];
}
