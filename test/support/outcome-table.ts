import { appendFileSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Reporter } from 'vitest/node';
import { FAULTS_FROM } from './fault-points.js';

/** One fault that was put somewhere, and what came of it. */
export interface OutcomeLine {
  readonly fault: string;
  readonly point: string;
  /** `right` or a longer word for it, or what was wrong. */
  readonly outcome: string;
  readonly seconds: number;
}

const DAY_MS = 86_400_000;

/** The variable that says where the test files of one run, each in a process of its own, put their lines. */
const OUTCOMES = 'VERDIGRIS_FAULT_OUTCOMES';

/** Adds a line to the table that the run of the tests prints at its end. */
export function recordOutcome(line: OutcomeLine): void {
  const file = process.env[OUTCOMES];
  if (file !== undefined) appendFileSync(file, `${JSON.stringify(line)}\n`);
}

/** Prints the table of faults, points and outcomes when the tests have ended. */
export default class OutcomeTable implements Reporter {
  readonly #file = (process.env[OUTCOMES] ??= join(tmpdir(), `verdigris-fault-outcomes-${process.pid}`));

  /** The same for all files of the run, which begin on two days perhaps. */
  readonly #from = (process.env[FAULTS_FROM] ??= String(Math.floor(Date.now() / DAY_MS)));

  onTestRunEnd(): void {
    if (!existsSync(this.#file)) return;
    const lines = readFileSync(this.#file, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as OutcomeLine);
    rmSync(this.#file);
    process.stdout.write(`\n${table(lines)}\n\nThe same points again: ${FAULTS_FROM}=${this.#from}\n`);
  }
}

/** The lines in columns, sorted by fault; those of the same fault and outcome at many points are told as one. */
export function table(lines: readonly OutcomeLine[]): string {
  const rows = new Map<string, { fault: string; points: string[]; outcome: string; seconds: number }>();
  for (const { fault, point, outcome, seconds } of lines) {
    const key = `${fault}\0${outcome}`;
    const row = rows.get(key) ?? { fault, points: [], outcome, seconds: 0 };
    row.points.push(point);
    row.seconds += seconds;
    rows.set(key, row);
  }
  const cells = [
    ['fault', 'points', 'seconds', 'outcome'],
    ...[...rows.values()]
      .sort((a, b) => a.fault.localeCompare(b.fault))
      .map(({ fault, points, outcome, seconds }) => [
        fault,
        points.length === 1 || outcome === 'wrong' ? points.join(', ') : `${points.length} points`,
        seconds.toFixed(0),
        outcome,
      ]),
  ];
  const widths = [0, 1, 2].map((column) => Math.min(60, Math.max(...cells.map((row) => row[column]?.length ?? 0))));
  return cells.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ')).join('\n');
}
