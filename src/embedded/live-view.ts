import { styleText } from 'node:util';
import { PHASES, type MigrationStatus } from '../../workflows/lib/status.js';
import { formatDuration } from '../plan/duration.js';
import { progressLine } from '../progress.js';
import type { ShopStatistics } from './shop/measurements.js';

/** Where lines go: standard output, with what it can do. */
export interface Screen {
  readonly isTTY: boolean;
  readonly columns: number;
  write(text: string): void;
}

/** Tables whose progress is drawn at once. */
const PROGRESS_LINES = 4;

/**
 * Shows a run as it goes on: a line for each phase that has ended, and, on a terminal, two lines below that are drawn
 * again and again. Elsewhere (a pipe, CI) each change is a line of its own.
 */
export class LiveView {
  #drawn = 0;
  readonly #finished = new Set<string>();
  #lastPlain = '';

  constructor(private readonly screen: Screen) {}

  update(status: MigrationStatus, statistics: ShopStatistics): void {
    for (const { phase, startedAt, finishedAt } of status.phases) {
      if (finishedAt === null || this.#finished.has(phase)) continue;
      this.#finished.add(phase);
      const time = formatDuration(Date.parse(finishedAt) - Date.parse(startedAt));
      this.note(`${styleText('green', '✓')} ${phase.padEnd(10)} ${time}`);
    }
    const waiting = status.waiting === null ? '' : ` (waits: ${status.waiting.why})`;
    const what = `${status.rollingBack === null ? status.phase : 'rollback'}: ${status.now}${waiting}`.replaceAll(
      /\s*\n\s*/g,
      ' ',
    );
    const progress = status.progress.slice(0, PROGRESS_LINES).map(progressLine);
    const seen = [what, ...progress].join('; ');
    if (this.screen.isTTY) {
      this.#draw([`▶ ${what}`, ...progress.map((line) => `    ${line}`), `  ${numbers(status, statistics)}`]);
    } else if (seen !== this.#lastPlain) {
      this.#lastPlain = seen;
      this.screen.write(`  ${seen} | ${numbers(status, statistics)}\n`);
    }
  }

  /** A line that stays. */
  note(line: string): void {
    this.#erase();
    this.screen.write(`${line}\n`);
  }

  /** Removes the lines that are drawn again and again. */
  finish(): void {
    this.#erase();
  }

  #draw(lines: readonly string[]): void {
    this.#erase();
    this.screen.write(lines.map((line) => `${line.slice(0, Math.max(20, this.screen.columns - 1))}\n`).join(''));
    this.#drawn = lines.length;
  }

  #erase(): void {
    // Up to the first of our lines, then erase to the end of the screen.
    if (this.#drawn > 0) this.screen.write(`\u001b[${this.#drawn}F\u001b[J`);
    this.#drawn = 0;
  }
}

function numbers(status: MigrationStatus, statistics: ShopStatistics): string {
  const step = PHASES.indexOf(status.phase) + 1;
  return [
    `phase ${step} of ${PHASES.length}`,
    `writes on ${status.writesOn}`,
    `reads on green ${status.greenReadPercent} %`,
    `lag ${status.lagSeconds === null ? '-' : formatDuration(status.lagSeconds * 1_000)}`,
    `${statistics.requests.toLocaleString('en')} requests, ${statistics.failedRequests} failed`,
  ].join(', ');
}
