import type { CreateIndex } from '../../plan/schema.js';
import { buildIndex, type Build } from './index-build.js';
import type { IndexSettings } from './index-settings.js';
import type { StepContext } from './step-context.js';

/** A build, and what it takes. */
export interface SizedBuild extends Build {
  /** The bytes that it reads, weighed by its method. */
  readonly effort: number;
  /** Whether it is one process, however many the server would allow. */
  readonly isOneProcess: boolean;
}

/**
 * How long a build takes beside one of a btree on the same rows, roughly: the longest are begun first, or the last lane is
 * left alone with one. GIN takes each value apart: 11 times as long for three keys a row. Methods of extensions are
 * somewhere between.
 */
const EFFORT: Readonly<Partial<Record<string, number>>> = {
  gin: 10,
  gist: 4,
  spgist: 3,
  hash: 2,
  btree: 1,
  brin: 0.2,
} satisfies Record<CreateIndex['method'], number>;
const OTHER_EFFORT = 4;

/** Those for which CREATE INDEX has used parallel workers since long (GIN does from PostgreSQL 18 on). */
const PARALLEL: ReadonlySet<string> = new Set(['btree', 'brin']);

/** @param bytes of the table, without its TOAST. */
export function sizedBuild(build: Build, method: string, bytes: number): SizedBuild {
  return { ...build, effort: bytes * (EFFORT[method] ?? OTHER_EFFORT), isOneProcess: !PARALLEL.has(method) };
}

export function longestFirst(builds: readonly SizedBuild[]): SizedBuild[] {
  return [...builds].sort((a, b) => b.effort - a.effort);
}

/**
 * Builds that share a green which nobody uses yet. Nothing ends before the longest build does, and where that is one
 * process, more lanes than keep the others done by then would only take its processor from it: with a GIN index of 7.1 s
 * and seven others of 4.7 s together, on two processors, two lanes take 7.5 s and four 9.9 s. For the same reason the
 * others have no parallel workers meanwhile.
 */
export class SharedGreen {
  /** How many lanes are worth while. */
  readonly settings: IndexSettings;
  readonly #long: ReadonlySet<SizedBuild>;
  readonly #underWay = new Set<SizedBuild>();

  /** @param settings `parallel` is how many lanes there may be. */
  constructor(builds: readonly SizedBuild[], settings: IndexSettings) {
    const longest = builds.reduce((most, { effort }) => Math.max(most, effort), 1);
    const total = builds.reduce((sum, { effort }) => sum + effort, 0);
    this.#long = new Set(builds.filter(({ isOneProcess, effort }) => isOneProcess && effort >= longest / 2));
    const worthWhile = this.#long.size === 0 ? settings.parallel : Math.max(2, Math.floor(total / longest));
    this.settings = { ...settings, parallel: Math.min(settings.parallel, worthWhile) };
  }

  async build(lane: StepContext, build: SizedBuild): Promise<void> {
    // Before anything is waited for: the lanes begin at the same moment.
    this.#underWay.add(build);
    try {
      await this.#limitWorkers(lane, build);
      await buildIndex(lane, build, this.settings);
    } finally {
      this.#underWay.delete(build);
    }
  }

  async #limitWorkers({ session }: StepContext, build: SizedBuild): Promise<void> {
    if (this.settings.oneProcess) return;
    const isBesideLong = [...this.#underWay].some((other) => other !== build && this.#long.has(other));
    await session.query(
      isBesideLong ? 'SET max_parallel_maintenance_workers = 0' : 'RESET max_parallel_maintenance_workers',
    );
  }
}
