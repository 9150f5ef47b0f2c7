import { formatDuration } from './plan/duration.js';
import type { Progress } from './postgres/migrate/step-context.js';

/**
 * One line about how far some work is: `copy public.orders: 45 % (1,200,000 of 2,640,000), 120 MB, 58,000/s, 24 s left`.
 * Used where people look: current details, `verdigris status`, the demo.
 */
export function progressLine(progress: Progress): string {
  const { step, object, done, total, note } = progress;
  const parts = [
    total > 0 ? `${percent(done, total)} (${grouped(done)} of ${grouped(total)})` : '',
    progress.bytes === undefined ? '' : size(progress.bytes),
    progress.rowsPerSecond > 0 ? `${grouped(progress.rowsPerSecond)}/s` : '',
    progress.bytesPerSecond === undefined || progress.bytesPerSecond === 0 ? '' : `${size(progress.bytesPerSecond)}/s`,
    progress.etaSeconds === null || done >= total ? '' : timeLeft(progress.etaSeconds),
    note ?? '',
  ].filter((part) => part !== '');
  return `${step} ${object}${parts.length === 0 ? '' : `: ${parts.join(', ')}`}`;
}

/** Whether a value is progress: what comes from outside is looked at first. */
export function isProgress(value: unknown): value is Progress {
  if (typeof value !== 'object' || value === null) return false;
  const { step, object, done, total, rowsPerSecond, etaSeconds, bytes, bytesPerSecond, note } = value as Partial<
    Record<keyof Progress, unknown>
  >;
  return (
    typeof step === 'string' &&
    typeof object === 'string' &&
    [done, total, rowsPerSecond].every(Number.isFinite) &&
    [bytes, bytesPerSecond].every((n) => n === undefined || Number.isFinite(n)) &&
    (etaSeconds === null || Number.isFinite(etaSeconds)) &&
    (note === undefined || typeof note === 'string')
  );
}

function percent(done: number, total: number): string {
  return `${Math.min(100, Math.floor((done / total) * 100))} %`;
}

function timeLeft(seconds: number): string {
  return seconds < 1 ? 'less than 1 s left' : `${formatDuration(seconds * 1_000)} left`;
}

/** 1234567 -> 1,234,567. By hand: workflow code has no locale data. */
function grouped(n: number): string {
  return String(Math.round(n)).replaceAll(/\B(?=(\d{3})+$)/g, ',');
}

function size(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 2 ** (10 * power)).toFixed(power < 3 ? 0 : 1)} ${units[power] ?? 'B'}`;
}
