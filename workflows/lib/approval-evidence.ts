import type { Evidence } from './evidence.js';
import type { MigrationStatus } from './status.js';

/**
 * What somebody who approves should know, line by line: the newest answer of each gate with its numbers, lag,
 * verification, and what the way back would cost.
 */
export function approvalEvidence(status: MigrationStatus, evidence: readonly Evidence[]): string[] {
  const { verification, lagSeconds, rollback } = status;
  return [
    `writes on ${status.writesOn}, reads of ${status.greenReadPercent} % of the users on green`,
    ...newest(evidence).map(
      ({ where, metric, outcome, because, at }) => `gate ${metric}: ${outcome}, ${because} (${where}, ${at})`,
    ),
    lagSeconds === null ? 'lag: not measured yet' : `lag: ${lagSeconds.toFixed(3)} s`,
    verification === null
      ? 'verification: not done yet'
      : `verification: ${verification.differingRows} of ${verification.rowsVerified} rows differ (${(verification.again ?? verification).at})`,
    `rollback: ${rollback.safe ? 'safe' : 'NOT safe'}, ${rollback.loses === undefined ? rollback.why : `it would lose ${rollback.loses}`}`,
  ];
}

/** The last evidence of each metric, of the last stage that has any. */
function newest(evidence: readonly Evidence[]): Evidence[] {
  const last = evidence.at(-1);
  if (last === undefined) return [];
  const byMetric = new Map<string, Evidence>();
  for (const one of evidence) if (one.where === last.where) byMetric.set(one.metric, one);
  return [...byMetric.values()];
}
