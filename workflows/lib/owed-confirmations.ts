import { CancellationScope, condition } from '@temporalio/workflow';
import type { RouteStamp } from '../../activities/instances.js';
import type { ReadsOwed } from '../../activities/traffic.js';
import { act } from './activities.js';
import { spareHistory } from './history-room.js';
import type { MigrationRun } from './migration-run.js';
import type { RunRef } from './run-ref.js';

/** How long a run that is over waits for them: its state is gone from the databases as a rule, and ends the asking. */
const WAIT_AT_THE_END = '10 seconds';

/**
 * The live instances and the HAProxies that had not confirmed that reads are back on blue when these were taken back. They
 * are asked beside the run, which goes on: its status names them until they have.
 */
export class OwedConfirmations {
  #asking: { readonly scope: CancellationScope; readonly ended: Promise<void> } | null = null;

  constructor(private readonly run: MigrationRun) {}

  /** @param owed what taking the reads back has said; null (or nothing, from a worker of an older version): all have confirmed it. */
  owe(ref: RunRef, owed: ReadsOwed | null | undefined): void {
    const names = owed?.unconfirmed ?? [];
    this.#asking?.scope.cancel();
    this.run.sawUnconfirmed(names);
    this.run.warn(owed?.warnings ?? []);
    if (owed === null || owed === undefined || names.length === 0) return;
    const { epoch, generation } = owed.route;
    this.run.warn([
      `reads are back on blue, and these instances have not confirmed it: ${names.slice(0, 10).join(', ')}; see whether they reach blue${names.some(isHaproxy) ? ', and whether the worker reaches the HAProxies: until these are told, they share connections as before' : ''}`,
    ]);
    void CancellationScope.nonCancellable(() => {
      // Only what follows cancels it: the story's end does not.
      const scope = new CancellationScope();
      const isLatest = (): boolean => this.#asking?.scope === scope;
      const ended = this.#ask(scope, ref, { epoch, generation }, names, isLatest);
      this.#asking = { scope, ended };
      return ended;
    });
  }

  /** At the end of a run; who has not confirmed by then stays named in its report. */
  async settled(): Promise<void> {
    if (this.#asking === null) return;
    const summary = 'which instances have confirmed that reads are back';
    await condition(() => this.#asking === null, WAIT_AT_THE_END, { summary });
    const late = this.#asking;
    late?.scope.cancel();
    await late?.ended;
  }

  /** Never throws. */
  async #ask(
    scope: CancellationScope,
    ref: RunRef,
    route: RouteStamp,
    names: readonly string[],
    isLatest: () => boolean,
  ): Promise<void> {
    try {
      await scope.run(async () => {
        for (let known = names; known.length > 0;) {
          const asked = act('who has not confirmed that reads are back').awaitConfirmed(ref, route, known);
          const { unconfirmed } = await asked;
          // Nobody can be asked any more: what was known last stays.
          if (unconfirmed === null || !isLatest()) return;
          this.run.sawUnconfirmed(unconfirmed);
          known = unconfirmed;
          await spareHistory();
        }
      });
    } catch {
      // Cancelled, or it can't be asked: what was known last stays.
    }
    if (isLatest()) this.#asking = null;
  }
}

/** By the names that taking the reads back gives them. */
function isHaproxy(name: string): boolean {
  return name.startsWith('HAProxy "');
}
