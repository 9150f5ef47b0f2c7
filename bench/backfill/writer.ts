import { spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { WriterSample } from './writer-main.js';

export interface WriterLatency {
  readonly transactions: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  readonly failed: number;
}

export interface BesideWriter {
  readonly seconds: number;
  readonly before: WriterLatency;
  readonly during: WriterLatency;
}

export interface WriterOptions {
  /** Rows of the start, of which it updates some. */
  readonly rows: number;
  readonly writesPerSecond: number;
}

/** Does the work while the application writes, and ends the application whatever becomes of it: its database is dropped next. */
export async function besideWriter(
  uri: string,
  options: WriterOptions,
  work: () => Promise<void>,
): Promise<BesideWriter> {
  const writer = startWriter(uri, options);
  try {
    await sleep(6_000);
    const from = wallClock();
    await work();
    const to = wallClock();
    const samples = await writer.stop();
    return {
      seconds: (to - from) / 1_000,
      // The first seconds warm the writer's connections.
      before: latencyOf(samples.filter(([due]) => due >= from - 4_000 && due < from)),
      during: latencyOf(samples.filter(([due]) => due >= from && due < to)),
    };
  } catch (error) {
    await writer.stop().catch(() => undefined);
    throw error;
  }
}

function startWriter(uri: string, options: WriterOptions): { stop: () => Promise<WriterSample[]> } {
  const job = JSON.stringify({ uri, perSecond: options.writesPerSecond, rows: options.rows });
  const script = fileURLToPath(new URL('writer-main.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', script, job], { stdio: ['pipe', 'pipe', 'inherit'] });
  const printed = text(child.stdout);
  return {
    stop: async () => {
      child.stdin.end();
      const samples: unknown = JSON.parse(await printed);
      return isSamples(samples) ? samples : [];
    },
  };
}

function isSamples(value: unknown): value is WriterSample[] {
  return Array.isArray(value) && value.every((sample) => Array.isArray(sample) && typeof sample[0] === 'number');
}

function latencyOf(samples: readonly WriterSample[]): WriterLatency {
  const done = samples.filter(([, , failed]) => failed === undefined);
  const sorted = done.map(([, ms]) => ms).sort((a, b) => a - b);
  const quantile = (q: number): number => Number((sorted[Math.floor(q * sorted.length)] ?? 0).toFixed(2));
  return {
    transactions: samples.length,
    p50: quantile(0.5),
    p99: quantile(0.99),
    max: Number((sorted.at(-1) ?? 0).toFixed(2)),
    failed: samples.length - done.length,
  };
}

function wallClock(): number {
  return performance.timeOrigin + performance.now();
}
