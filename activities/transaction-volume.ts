import { setTimeout as sleep } from 'node:timers/promises';
import { LEAST_VOLUME, VOLUME_SECONDS } from '../src/gates/decide-postgres.js';
import { volumeBetween } from '../src/gates/postgres-series.js';
import { readPostgres } from '../src/gates/postgres-source.js';
import type { Plan } from '../src/plan/schema.js';
import { readProgress, writeProgress, type ProgressKey } from '../src/postgres/migrate/progress-row.js';
import type { Session } from '../src/postgres/session.js';
import type { Side } from '../src/side.js';
import type { Work } from './context.js';

/** Transactions a second before the first reads moved. Plain data. */
export interface VolumeBefore {
  readonly perSecond: number;
  /** By blue's clock, ms since 1970; left out by versions that did not keep it. */
  readonly atMs?: number;
}

/**
 * Transactions a second of both sides before the first reads moved, for the gate that compares with them: measured once,
 * while all reads are on blue, and kept. One with which the gate can't decide is measured anew when all reads are on blue
 * again. undefined where no gate asks, or reads have moved already.
 */
export async function transactionVolume(
  { run, signal, report }: Work,
  sessions: Readonly<Record<Side, Session>>,
  plan: Plan,
  greenReadPercent: number,
): Promise<VolumeBefore | undefined> {
  if (!plan.traffic.gates.some((gate) => gate.metric === 'transactionVolume')) return undefined;
  const key: ProgressKey = { runId: run.runId, step: 'stage', object: 'transactions before' };
  const known = await readProgress<VolumeBefore>(sessions.blue, key);
  const isEnough = known !== undefined && known.state.perSecond >= LEAST_VOLUME;
  if (isEnough || greenReadPercent > 0) return known?.state;
  report({ counting: 'the transactions of now, to compare with them later' });
  const from = await readPostgres(sessions, plan.name);
  await sleep(VOLUME_SECONDS * 1_000 + 100, undefined, { signal });
  const to = await readPostgres(sessions, plan.name);
  const perSecond = volumeBetween(from, to, VOLUME_SECONDS);
  if (perSecond === undefined) return undefined;
  const volume: VolumeBefore = { perSecond, atMs: to.blue.atMs };
  await writeProgress(sessions.blue, key, volume, true);
  return volume;
}
