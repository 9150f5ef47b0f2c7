import { styleText } from 'node:util';
import type { MigrationStatus, Outcome, PhaseTimes } from '../../workflows/lib/status.js';
import { formatDuration } from '../plan/duration.js';
import type { Side } from '../side.js';
import type { AuditResult } from './shop/audit.js';
import type { Quantiles } from './shop/latency-histogram.js';
import type { ShopStatistics, Window } from './shop/measurements.js';

/** What the demo measured, all of it by the application but the phases and the verification: the file of --json. */
export interface DemoResult {
  readonly outcome: Outcome;
  readonly requests: number;
  readonly failedRequests: number;
  readonly acknowledgedWrites: number;
  readonly lostWrites: number;
  readonly duplicatedWrites: number;
  readonly downtimeMs: number;
  /** The longest write while writes were switched from one side to the other; 0 when they never were. */
  readonly maxWriteHoldMs: number;
  readonly errorRate: Readonly<Record<Window, number | null>>;
  readonly latencyMs: Readonly<Record<Side, Quantiles>>;
  readonly rowsVerified: number;
  readonly differingRows: number;
  /** From the request to all reads and writes being back on blue; null without a rollback. */
  readonly rollbackMs: number | null;
  readonly phases: readonly PhaseTimes[];
  readonly workflowId: string;
  readonly historyEvents: number;
  /** The side that serves at the end, on which every acknowledged write was looked up. */
  readonly auditedOn: Side;
  /** Writes that were reported as failed and are there all the same. */
  readonly phantomWrites: number;
  /** Users whose balance is not the sum of their transactions. */
  readonly wrongBalances: number;
  /** Failed requests by SQLSTATE or message. */
  readonly failures: Readonly<Record<string, number>>;
  /** The longest write of each part of the run, whatever held it up. */
  readonly maxWriteMs: Readonly<Record<Window, number>>;
  /** The hold of the promotion as the workflow reports it; null when there was none, or its worker died in it. */
  readonly promotionHoldMs: number | null;
  readonly migrationMs: number;
  /** Why the run was rolled back; null when it was not. */
  readonly rollbackReason: string | null;
}

export interface Measured {
  readonly status: MigrationStatus;
  readonly statistics: ShopStatistics;
  readonly audit: AuditResult;
  readonly maxWriteHoldMs: number;
  readonly historyEvents: number;
  readonly migrationMs: number;
}

export function demoResult(measured: Measured): DemoResult {
  const { status, statistics, audit } = measured;
  return {
    outcome: status.outcome,
    requests: statistics.requests,
    failedRequests: statistics.failedRequests,
    acknowledgedWrites: audit.acknowledgedWrites,
    lostWrites: audit.lostWrites,
    duplicatedWrites: audit.duplicatedWrites,
    downtimeMs: rounded(statistics.downtimeMs),
    maxWriteHoldMs: rounded(measured.maxWriteHoldMs),
    errorRate: statistics.errorRate,
    latencyMs: statistics.latencyMs,
    rowsVerified: status.verification?.rowsVerified ?? 0,
    differingRows: status.verification?.differingRows ?? 0,
    rollbackMs: status.rollingBack?.trafficBackMs ?? null,
    phases: status.phases,
    workflowId: status.workflowId,
    historyEvents: measured.historyEvents,
    auditedOn: audit.side,
    phantomWrites: audit.phantomWrites,
    wrongBalances: audit.wrongBalances,
    failures: statistics.failures,
    maxWriteMs: {
      before: rounded(statistics.maxWriteMs.before),
      during: rounded(statistics.maxWriteMs.during),
      after: rounded(statistics.maxWriteMs.after),
    },
    promotionHoldMs: roundedIfKnown(status.promotion?.holdMs ?? null),
    migrationMs: Math.round(measured.migrationMs),
    rollbackReason: status.rollingBack?.reason ?? null,
  };
}

/** What is wrong with a result, in sentences; nothing when every promise was kept. */
export function brokenPromises(result: DemoResult, expected: Outcome): string[] {
  const servesOn: Side = expected === 'completed' ? 'green' : 'blue';
  return [
    result.outcome !== expected && `the run ended as "${result.outcome}", not as "${expected}"`,
    result.auditedOn !== servesOn && `writes are on ${result.auditedOn}, not on ${servesOn}`,
    result.lostWrites > 0 && `${result.lostWrites} acknowledged writes are lost`,
    result.duplicatedWrites > 0 && `${result.duplicatedWrites} writes are there more than once`,
    result.phantomWrites > 0 && `${result.phantomWrites} writes are there that were reported as failed`,
    result.wrongBalances > 0 && `${result.wrongBalances} balances are not the sum of their transactions`,
    result.differingRows > 0 && `${result.differingRows} rows differ between blue and green`,
    result.failedRequests > 0 && `${result.failedRequests} requests failed: ${JSON.stringify(result.failures)}`,
  ].filter((sentence) => sentence !== false);
}

/** The seed's table of results, with what the application measured. */
export function resultTable(result: DemoResult, webUi: string): string {
  const { before, during, after } = result.errorRate;
  const rows: (readonly [string, string])[] = [
    ['Outcome', result.rollbackReason === null ? result.outcome : `${result.outcome}: ${result.rollbackReason}`],
    ['Downtime', formatDuration(result.downtimeMs)],
    [
      'Data loss',
      `${result.lostWrites} rows (each of ${number(result.acknowledgedWrites)} acknowledged writes looked up on ${result.auditedOn}, ${result.duplicatedWrites} twice)`,
    ],
    ['Failed requests', `${result.failedRequests} of ${number(result.requests)}`],
    ['Error rate', `before ${percent(before)}, during ${percent(during)}, after ${percent(after)}`],
    ['Latency, blue', quantiles(result.latencyMs.blue)],
    ['Latency, green', quantiles(result.latencyMs.green)],
    ['Longest held write', longestWrite(result)],
    ['Rows verified', `${number(result.rowsVerified)} compared between blue and green, ${result.differingRows} differ`],
    ['Migration time', `${formatDuration(result.migrationMs)} (${phaseTimes(result.phases)})`],
    ...(result.rollbackMs === null
      ? []
      : [['Rollback time', `${formatDuration(result.rollbackMs)} until all traffic was back on blue`] as const]),
    ['In the Web UI', `${webUi} (${result.historyEvents} events)`],
  ];
  const width = Math.max(...rows.map(([name]) => name.length)) + 2;
  return [
    styleText('bold', 'The results, as the application saw them'),
    ...rows.map(([name, value]) => `  ${name.padEnd(width)}${value}`),
  ].join('\n');
}

function longestWrite(result: DemoResult): string {
  const other = `the longest before the run took ${formatDuration(result.maxWriteMs.before)}`;
  if (result.promotionHoldMs === null && result.maxWriteHoldMs === 0) return `none was held; ${other}`;
  const closed =
    result.promotionHoldMs === null ? 'a time that was not measured' : formatDuration(result.promotionHoldMs);
  return `${formatDuration(result.maxWriteHoldMs)} (writes were closed for ${closed}; ${other})`;
}

function phaseTimes(phases: readonly PhaseTimes[]): string {
  return phases
    .filter((phase) => phase.finishedAt !== null)
    .map(({ phase, startedAt, finishedAt }) => {
      const ms = Date.parse(finishedAt ?? startedAt) - Date.parse(startedAt);
      return `${phase} ${formatDuration(ms)}`;
    })
    .join(', ');
}

function quantiles({ p50, p95, p99 }: Quantiles): string {
  return p50 === null ? 'no requests' : `p50 ${p50} ms, p95 ${p95} ms, p99 ${p99} ms`;
}

function percent(share: number | null): string {
  return share === null ? 'no requests' : `${Math.round(share * 1e5) / 1e3} %`;
}

function number(value: number): string {
  return value.toLocaleString('en');
}

function roundedIfKnown(ms: number | null): number | null {
  return ms === null ? null : rounded(ms);
}

function rounded(ms: number): number {
  return Math.round(ms * 10) / 10;
}
