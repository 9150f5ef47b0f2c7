import { formatDuration, parseDuration } from '../plan/duration.js';
import type { Gate } from '../plan/schema.js';
import { decideGauge } from './decide-gauge.js';
import { volumeBetween, type PostgresSample, type PostgresSeries } from './postgres-series.js';
import { count, inconclusive, percent, type ShareVerdict } from './share.js';

export type PostgresGate = Extract<
  Gate,
  { metric: 'blockingLocks' | 'longTransactions' | 'conflicts' | 'retainedWal' | 'transactionVolume' }
>;

/** Whether a gate is answered by the two servers themselves. */
export function isPostgresGate(gate: Gate): gate is PostgresGate {
  return ['blockingLocks', 'longTransactions', 'conflicts', 'retainedWal', 'transactionVolume'].includes(gate.metric);
}

/** Whether a gate asks what the sessions of others are doing: pg_stat_activity tells that to pg_read_all_stats alone. */
export function asksSessions(gate: Gate): boolean {
  return gate.metric === 'blockingLocks' || gate.metric === 'longTransactions';
}

/** A transaction rate is a mean over so many seconds: sessions report theirs about once a second. */
export const VOLUME_SECONDS = 10;
/** Below this rate, transactions a second, a drop says nothing. */
export const LEAST_VOLUME = 1;
/** Later than this after the rate was measured, a drop may be the hour of the day. */
const COMPARABLE_MS = 3_600_000;

/** Answers the gates that ask the two servers. */
export function decidePostgres(gate: PostgresGate, series: PostgresSeries): ShareVerdict {
  const verdict = decide(gate, series);
  const blind = asksSessions(gate) && verdict.outcome !== 'fail' ? blindOf(series) : undefined;
  return blind === undefined ? verdict : { outcome: 'error', because: blind };
}

/** What keeps a gate on sessions from passing: sessions whose doings are not seen. Those that are may fail it. */
function blindOf({ samples }: PostgresSeries): string | undefined {
  const now = samples.at(-1);
  for (const side of ['blue', 'green'] as const) {
    const role = now?.[side].blindRole;
    if (role !== undefined) {
      return `${role} does not see what other users' sessions on ${side} do: GRANT pg_monitor TO ${role}`;
    }
  }
  return undefined;
}

function decide(gate: PostgresGate, series: PostgresSeries): ShareVerdict {
  const { samples } = series;
  switch (gate.metric) {
    case 'blockingLocks':
      return decideLocks(gate.max, parseDuration(gate.longerThan), series);
    case 'longTransactions': {
      const maxMs = parseDuration(gate.max);
      return decideGauge({
        what: 'the age of transactions',
        values: samples.map((both) => 1_000 * worst(both, (sample) => sample.oldestTransactionSeconds)),
        isKept: (ms) => ms <= maxMs,
        describe: (ms) =>
          ms === 0
            ? 'no transaction of a client is open'
            : `the oldest open transaction is ${formatDuration(ms)} old; ${formatDuration(maxMs)} is allowed`,
      });
    }
    case 'conflicts':
      return decideConflicts(gate.max, series);
    case 'retainedWal': {
      const max = bytesOf(gate.max);
      return decideGauge({
        what: 'the retained WAL',
        values: samples.map(({ blue }) => blue.retainedWalBytes),
        isKept: (bytes) => bytes <= max,
        describe: (bytes) => `blue retains ${Math.round(bytes / 2 ** 20)} MB of WAL for green; ${gate.max} is allowed`,
      });
    }
    case 'transactionVolume':
      return decideVolume(gate.maxDrop, series);
  }
}

function decideLocks(max: number, longerThanMs: number, { samples }: PostgresSeries): ShareVerdict {
  const waiting = (sample: PostgresSample): number =>
    sample.lockWaits.filter((seconds) => seconds * 1_000 >= longerThanMs).length;
  const now = samples.at(-1);
  const who = now === undefined ? '' : [now.blue.whoWaits, now.green.whoWaits].filter((text) => text !== '').join('; ');
  const long = formatDuration(longerThanMs);
  return decideGauge({
    what: 'the waits for locks',
    values: samples.map(({ blue, green }) => waiting(blue) + waiting(green)),
    isKept: (sessions) => sessions <= max,
    describe: (sessions) =>
      sessions === 0
        ? `no session has waited ${long} for a lock`
        : `${count(sessions)} ${sessions === 1 ? 'session has' : 'sessions have'} waited ${long} for a lock; ${count(max)} allowed (${who})`,
  });
}

/** A counter that has grown is certain: nothing has to be measured twice. */
function decideConflicts(max: number, { atOpening, samples }: PostgresSeries): ShareVerdict {
  const now = samples.at(-1)?.green.conflicts;
  if (now === undefined) return inconclusive('the conflicts of replication have not been counted');
  const before = atOpening.green.conflicts;
  const since = now < before ? now : now - before;
  const because = `${count(since)} conflicts and errors of replication on green since the stage opened; ${count(max)} allowed`;
  return { outcome: since <= max ? 'pass' : 'fail', because };
}

function decideVolume(
  maxDrop: number,
  { atOpening, samples, volumeBefore, volumeBeforeAtMs }: PostgresSeries,
): ShareVerdict {
  if (volumeBefore === undefined) return inconclusive('the transactions a second before the first stage are not known');
  const before = volumeBefore.toFixed(1);
  if (volumeBefore < LEAST_VOLUME)
    return inconclusive(`there were ${before} transactions a second before the first stage: too few to miss any`);
  const verdict = decideGauge({
    what: 'the transactions a second',
    values: ratesOf(samples),
    isKept: (rate) => rate >= volumeBefore * (1 - maxDrop),
    describe: (rate) =>
      `${rate.toFixed(1)} transactions a second on both sides, ${before} before the first stage; a drop of ${percent(maxDrop)} is allowed`,
  });
  const ageMs = (samples.at(-1)?.blue.atMs ?? 0) - (volumeBeforeAtMs ?? atOpening.blue.atMs);
  if (verdict.outcome !== 'fail' || ageMs <= COMPARABLE_MS) return verdict;
  return inconclusive(
    `${verdict.because}; but that was ${formatDuration(ageMs)} ago: it may be the hour of the day, so it fails nothing`,
  );
}

/** The newest rates, each a mean over VOLUME_SECONDS that does not overlap with the others. */
function ratesOf(samples: PostgresSeries['samples']): number[] {
  const rates: number[] = [];
  let to = samples.length - 1;
  for (let from = to - 1; from >= 0; from--) {
    const [a, b] = [samples[from], samples[to]];
    const rate = a === undefined || b === undefined ? undefined : volumeBetween(a, b, VOLUME_SECONDS);
    if (rate === undefined) continue;
    rates.unshift(rate);
    to = from;
  }
  return rates;
}

function worst({ blue, green }: PostgresSeries['samples'][number], of: (sample: PostgresSample) => number): number {
  return Math.max(of(blue), of(green));
}

const UNITS: Readonly<Record<string, number>> = { MB: 2 ** 20, GB: 2 ** 30, TB: 2 ** 40 };

/** Bytes of a plan's size. The pattern of the plan's schema has been matched. */
function bytesOf(size: string): number {
  return Number.parseInt(size, 10) * (UNITS[size.slice(-2)] ?? 1);
}
