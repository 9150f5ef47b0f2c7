import { condition, sleep } from '@temporalio/workflow';
import type { SchemaLook, SchemaNews, TakenOver } from '../activities/watch-schema.js';
import type { Acceptance } from '../src/postgres/ddl/schema-watch.js';
import type { Side } from '../src/side.js';
import { act } from './lib/activities.js';
import { beside } from './lib/beside.js';
import { failureMessage, isCancelled } from './lib/failure.js';
import { restMs, spareHistory } from './lib/history-room.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { Alarm } from './lib/status.js';
import type { RunRef } from './lib/run-ref.js';
import type { StepOptions, Story } from './lib/story.js';

/**
 * Does `work` while blue's schema is watched. DDL is not replicated: what is changed on blue during the run is missing on
 * green, and may stop the feed. So it holds the run, with what has changed, until somebody resumes; then it is looked
 * whether the run can go on with it (docs/ddl.md).
 */
export async function whileSchemaStays(story: Story, ref: RunRef, work: () => Promise<void>): Promise<void> {
  try {
    await beside(() => guardSchema(story, ref), work);
  } finally {
    story.run.hold(null);
  }
}

async function guardSchema(story: Story, ref: RunRef): Promise<never> {
  let told: string | undefined;
  for (;;) {
    const { what, emptied } = await changeOf(story, ref, 'blue', told);
    if (emptied !== undefined) {
      told = emptied.mark;
      story.run.warn([
        `${what}. TRUNCATE of one partition is not replicated: the next comparison holds the run if green still has rows of it`,
      ]);
      await spareHistory();
      continue;
    }
    let why = what;
    for (;;) {
      await story.holdUntilResumed(why);
      const { refused, accepted } = await judge(ref);
      if (accepted !== null) story.run.warn([`accepted: ${accepted}`]);
      if (refused === null) break;
      why = refused;
    }
    story.run.hold(null);
  }
}

async function judge(ref: RunRef): Promise<Acceptance> {
  try {
    return await act('can the run go on with it?').acceptSchema(ref);
  } catch (error) {
    if (isCancelled(error)) throw error;
    return { refused: `it can't be said whether the run can go on: ${failureMessage(error)}`, accepted: null };
  }
}

/** Before a watch that has failed is begun again, ms. */
const AGAIN_MS = 300_000;

/**
 * Waits for a change. A watch that fails says nothing about the run: people are told, and it is begun again. So they are of
 * DDL where the plan moves nothing, such as views of others: the other side may need them, and no feed does.
 */
async function changeOf(
  story: Story,
  ref: RunRef,
  side: Side,
  told?: string,
  unmoved?: readonly string[],
): Promise<SchemaNews> {
  let toldAside: string | undefined;
  for (;;) {
    try {
      const news = await act(`watch ${side} for DDL`).watchSchema(ref, side, told, toldAside, unmoved);
      if (news.aside === undefined) return news;
      toldAside = news.aside;
      story.run.warn([`${news.what}. The other side does not have it: make it there as well, if somebody needs it`]);
      await spareHistory();
    } catch (error) {
      if (isCancelled(error)) throw error;
      story.run.warn([`DDL on ${side} is not watched: ${failureMessage(error)}`]);
      await sleep(Math.max(AGAIN_MS, restMs()), { summary: `watch ${side} for DDL again` });
    }
  }
}

/**
 * The last look, before writes move. What it finds the watch finds within seconds, and holds the run; where the watch does
 * not, the promotion itself refuses. Whoever goes on waits for the hold.
 *
 * @returns the first partitions of blue that may have been emptied since rows were compared
 */
export async function schemaHasStayed(story: Story, ref: RunRef, options: StepOptions): Promise<readonly string[]> {
  const look = (): Promise<SchemaLook> => act('DDL on blue?').lookAtSchema(ref);
  const { what, emptied = [] } = await story.step("a last look at blue's schema", look, options);
  if (what !== null) await condition(() => story.isHeld, '20s', { summary: 'until the watch has noticed it' });
  return emptied;
}

/** Each look is compared with the one before: nobody knows when two sides agree again. */
const STAYS = 'Whatever is done then is told as a change, too, and the newest one stays here until the run ends';

/** In the standby window: DDL on green, which serves, is not replicated to blue and may stop the way back. It only warns. */
export function watchGreenSchema(story: Story, ref: RunRef): Promise<never> {
  return tellChanges(story, ref, 'green', {
    about: 'schema',
    means: 'It is not replicated: a change that blue does not have may stop the feed to it',
    next: `take it back, or make it on blue as well, until the run is retired. ${STAYS}`,
  });
}

/** In the standby window: what DDL takes from blue is missing after a rollback, though the feed may live. It only warns. */
export function watchBlueSchema(story: Story, ref: RunRef): Promise<never> {
  return tellChanges(story, ref, 'blue', {
    about: 'blueSchema',
    means: 'A rollback goes back to blue as it is then, without what was dropped there',
    next: `nothing where it makes blue what green is; else undo it on blue, where that brings everything back. ${STAYS}`,
  });
}

/** Blue may still have rows that green has no more: a comparison, which is due now, tells. */
function tellEmptied(run: MigrationRun, what: string, partitions: readonly string[]): void {
  run.wayBack.sawEmptied(partitions);
  const why = `${what}. TRUNCATE of one partition is not replicated: a rollback may bring its rows back`;
  run.alarm(
    'rows',
    'emptied',
    why,
    'wait for the comparison with blue, which begins within ten minutes; DELETE in place of TRUNCATE',
  );
}

/** What the way back leaves on green although the feed lives. */
function tellUnmoved(run: MigrationRun, what: string, contents: readonly string[]): void {
  run.wayBack.sawUnmoved(contents);
  if (contents.length === 0) return run.allClear('contents');
  const next = 'take it from green until the run is retired, or accept its loss (`rollback` with "acceptLoss")';
  run.alarm('contents', what, `${what}. A rollback leaves it there`, next);
}

interface Meaning {
  readonly about: Alarm['about'];
  readonly means: string;
  readonly next: string;
}

async function tellChanges(story: Story, ref: RunRef, side: Side, meaning: Meaning): Promise<never> {
  const { run } = story;
  let told: string | undefined;
  let known: readonly string[] | undefined;
  for (;;) {
    const { what, emptied, unmoved } = await changeOf(story, ref, side, told, known);
    if (unmoved !== undefined) {
      known = unmoved;
      tellUnmoved(run, what, unmoved);
      await spareHistory();
      continue;
    }
    if (emptied !== undefined) {
      told = emptied.mark;
      // Blue, which follows, is compared with green.
      if (side === 'green') tellEmptied(run, what, emptied.partitions);
      await spareHistory();
      continue;
    }
    run.alarm(meaning.about, what, `${what}. ${meaning.means}`, meaning.next);
    try {
      // A worker of an earlier version says nothing, or less.
      const taken = (await act('told').takeSchemaOver(ref, side, what)) as Partial<TakenOver> | undefined;
      if (side === 'green') run.wayBack.sawOnlyOnGreen(taken?.onlyOnGreen ?? []);
      else run.wayBack.sawDroppedOnBlue(taken?.droppedOnBlue ?? []);
    } catch (error) {
      if (isCancelled(error)) throw error;
      run.warn([`DDL on ${side} is told, and can't be noted as told: ${failureMessage(error)}`]);
      // The watch would see the same change at once.
      await sleep(AGAIN_MS, { summary: `watch ${side} for DDL again` });
    }
    await spareHistory();
  }
}
