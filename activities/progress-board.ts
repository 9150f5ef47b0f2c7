import type { Progress } from '../src/postgres/migrate/step-context.js';
import { isProgress } from '../src/progress.js';

/** How many objects (tables, indexes) are shown at once. */
const SHOWN = 10;
/** The workflow is told first after so long, then ever more rarely: each telling is a few events of its history. */
const FIRST_MS = 1_000;
const EVERY_MS = 5_000;
const EVERY_SHARE = 0.05;

/**
 * What an activity has reported: the newest of each object, so that several tables at once are seen side by side. With
 * intervals that grow with the time, a run of many hours tells its workflow a few hundred times.
 */
export class ProgressBoard {
  readonly #objects = new Map<string, Progress>();
  #facts: object | undefined;
  #toldAt = 0;
  #news = false;

  constructor(private readonly startedAt: number) {}

  /** Takes a report: progress on an object, or any other small facts, which replace earlier facts. */
  report(progress: object): void {
    if (!isProgress(progress)) {
      this.#facts = progress;
      return;
    }
    const key = `${progress.step} ${progress.object}`;
    // Newest last, whatever came first.
    this.#objects.delete(key);
    this.#objects.set(key, progress);
    this.#news = true;
  }

  /** For the heartbeat: shown with the pending activity. */
  details(): object | undefined {
    const progress = this.current();
    if (progress.length === 0) return this.#facts;
    return progress.length === 1 ? { ...this.#facts, ...progress[0] } : { ...this.#facts, progress };
  }

  /** The objects that are being worked on; of those that are done the last one. */
  current(): readonly Progress[] {
    const all = [...this.#objects.values()];
    const open = all.filter(({ done, total }) => total === 0 || done < total);
    return (open.length > 0 ? open : all.slice(-1)).slice(-SHOWN);
  }

  /** What the workflow is to be told now; undefined when it is too soon or there is nothing new. */
  due(now: number): readonly Progress[] | undefined {
    const elapsed = now - this.startedAt;
    const pause = Math.max(EVERY_MS, elapsed * EVERY_SHARE);
    if (!this.#news || elapsed < FIRST_MS || now - this.#toldAt < pause) return undefined;
    this.#toldAt = now;
    this.#news = false;
    return this.current();
  }
}
