import { appendFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** One fault that was put somewhere, and what came of it. */
export interface OutcomeLine {
  readonly fault: string;
  readonly point: string;
  /** `right` or a longer word for it, or what was wrong. */
  readonly outcome: string;
  readonly seconds: number;
}

/** Where the test files of one run, each in a process of its own, put their lines for the table at the end. */
export function outcomeFile(run: string | number): string {
  return join(tmpdir(), `verdigris-fault-outcomes-${run}`);
}

/** Adds a line to the table that the run of the tests prints at its end. */
export function recordOutcome(line: OutcomeLine): void {
  const file = process.env['VERDIGRIS_FAULT_OUTCOMES'];
  if (file !== undefined) appendFileSync(file, `${JSON.stringify(line)}\n`);
}
