import { BLUE_APART } from './application.js';
import { backfillTargets } from './backfill.js';
import type { DataResult } from './result.js';
import type { Rounds } from './rounds.js';
import { ratio } from './statistics.js';
import { rowsPerCore } from './verify.js';

/** What the project promises of its data path, and what this run says of it. */
export interface Target {
  readonly target: string;
  /** Null: not measured in this run. */
  readonly met: boolean | null;
  readonly measured: string;
}

/** Of the worker's resident set, bytes: megabytes of the SI, not MiB. */
const MEMORY_LIMIT = 300e6;

/** Pure: holds a result against the targets. */
export function targetsOf(result: DataResult): readonly Target[] {
  const { copy, change, backfill, application, verification } = result;
  const clone = copy?.standings.find(({ contestant }) => contestant === 'pgcopydb clone');
  const changed = change?.standings[0];
  const byHand = change?.standings.find(({ contestant }) => contestant === 'pgcopydb + by hand');
  const heap = ratio(changed?.tableBytes ?? null, byHand?.tableBytes ?? null);
  const application99 = application?.standings[0]?.p99Ratio ?? null;
  const apart = application?.standings.find(({ contestant }) => contestant === BLUE_APART)?.p99Ratio ?? null;
  const memory = Math.max(0, ...workerPeaks(copy), ...workerPeaks(change));
  return [
    atMost("copy: at or below pgcopydb's time", clone?.verdigrisTo ?? null, 1, 'of its time'),
    atMost(
      'schema change: at most half the time of pgcopydb and by hand',
      byHand?.verdigrisTo ?? null,
      0.5,
      'of its time',
    ),
    atMost('schema change: a smaller table', heap, 1, 'of its size', { strictly: true }),
    ...(backfill === undefined ? [] : backfillTargets(backfill)),
    atMost("application's p99 on blue during bootstrap: at most 1.2 of before", application99, 1.2, 'of before'),
    atMost('the same with blue and the application on processors of their own', apart, 1.2, 'of before'),
    verificationTarget(verification === undefined ? null : rowsPerCore(verification)),
    {
      target: "the worker's resident memory: below 300 MB",
      met: memory === 0 ? null : memory < MEMORY_LIMIT,
      measured: memory === 0 ? 'not measured' : `${Math.ceil(memory / 1e6)} MB`,
    },
  ];
}

/** The worker's own: a pg_dump that it starts is gone before the rows come. */
function workerPeaks(part: Rounds | undefined): readonly number[] {
  return (part?.runs ?? []).map(({ migration }) => migration?.memory?.own ?? 0);
}

function verificationTarget(rate: number | null): Target {
  const target = 'verification: at least 1 million rows a second and core';
  if (rate === null) return { target, met: null, measured: 'not measured' };
  return { target, met: rate >= 1e6, measured: `${Math.round(rate).toLocaleString('en')} rows compared` };
}

function atMost(target: string, measured: number | null, limit: number, of: string, { strictly = false } = {}): Target {
  if (measured === null) return { target, met: null, measured: 'not measured' };
  return { target, met: strictly ? measured < limit : measured <= limit, measured: `${measured.toFixed(2)} ${of}` };
}
