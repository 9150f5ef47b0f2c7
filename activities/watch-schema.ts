import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { sendAsText } from '../src/postgres/binary-feed.js';
import { changesTypes } from '../src/postgres/ddl/compare-facts.js';
import { installDdlTriggers } from '../src/postgres/ddl/event-trigger.js';
import {
  acceptSchema,
  beginSchemaWatch,
  isWatched,
  lookAtSchema,
  takeOverFollowing,
  takeOverServing,
  type Acceptance,
  type SchemaChange,
  type Watched,
} from '../src/postgres/ddl/schema-watch.js';
import { tableFilter } from '../src/postgres/catalog-pattern.js';
import { firstPartitions, maybeEmptied } from '../src/postgres/partition-files.js';
import { SCHEMA_IN_CHANGE, sqlState } from '../src/postgres/sqlstate.js';
import { readCatalogSignature } from '../src/postgres/ddl/table-facts.js';
import { unmovedOnGreen } from '../src/postgres/unmoved-contents.js';
import type { Side } from '../src/side.js';
import { runAsOwnerWhereNeeded } from '../src/postgres/subscription.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { perform, watching, type ActivityDependencies, type Work } from './context.js';

/** Time between two looks, ms; longer where a look takes long: the watch is never more than a thirtieth of the time. */
const LOOK_EVERY_MS = 3_000;
const SHARE = 30;
/** How long one statement of a look may take, ms: thousands of tables take some seconds. */
const LOOK_WITHIN_MS = 60_000;

/**
 * The shortest time between two tellings of what holds nothing (emptied partitions, DDL where the plan moves nothing, what is
 * not replicated), ms: a job may empty some, or make large objects that go again, every minute, for weeks.
 */
const TOLD_EVERY_MS: Readonly<Record<Side, number>> = { blue: 3_600_000, green: 60_000 };

export interface SchemaNews {
  readonly what: string;
  /** Only where nothing else has changed. */
  readonly emptied?: Emptied;
  /** Only where nothing has changed but where the plan moves nothing: another one when there is more. */
  readonly aside?: string;
  /** Only of green: what it holds now that is not replicated to blue, where that is not what is known. */
  readonly unmoved?: readonly string[];
}

export interface SchemaLook {
  /** What has changed, in one line; null when nothing has. */
  readonly what: string | null;
  /** The first partitions that may have been emptied since rows were compared. */
  readonly emptied?: readonly string[];
}

export interface Emptied {
  /** The first partitions that may have been emptied since rows were compared. */
  readonly partitions: readonly string[];
  /** Another one when there are others, or one was emptied again. */
  readonly mark: string;
}

export interface TakenOver {
  readonly onlyOnGreen: readonly string[];
  readonly droppedOnBlue: readonly string[];
}

/** Activities that watch for DDL. */
export function watchSchemaActivities(dependencies: ActivityDependencies) {
  return {
    /** Writes down the schema of a side as it is now, and makes the event triggers where the role may. */
    beginSchemaWatch: (ref: RunRef, side: Side): Promise<{ eventTriggers: boolean }> =>
      perform(dependencies, ref, async (work) => {
        const watched = await watchedBy(work, ref, side);
        const eventTriggers = await installDdlTriggers(watched.session);
        await beginSchemaWatch(watched);
        return { eventTriggers };
      }),

    /**
     * Returns when somebody has changed the schema of a side: what has changed, in one line. Also when a partition may have
     * been emptied since rows were compared, or green holds something that is not replicated, or no more.
     *
     * @param told what is known already of emptied partitions: `emptied.mark` of the last time
     * @param toldAside what is known already of DDL where the plan moves nothing: `aside` of the last time
     * @param unmoved the same of what is not replicated: `unmoved` of the last time
     */
    watchSchema: (
      ref: RunRef,
      side: Side,
      told?: string,
      toldAside?: string,
      unmoved?: readonly string[],
    ): Promise<SchemaNews> =>
      perform(dependencies, ref, async (work) => {
        const watched = await watchedBy(work, ref, side);
        const begun = performance.now();
        // What was never told is told at once.
        const isDue = (known: unknown): boolean =>
          (known ?? null) === null || performance.now() - begun >= TOLD_EVERY_MS[side];
        let quiet = '';
        for (;;) {
          work.signal.throwIfAborted();
          const began = performance.now();
          const contents = side === 'green' ? await newlyUnmoved(watched, unmoved) : undefined;
          if (contents !== undefined && isDue(unmoved)) return contents;
          const signature = await readCatalogSignature(watched.session);
          if (signature !== quiet) {
            const change = await lookUnlessBusy(watched);
            if (typeof change?.what === 'string') {
              if (side === 'blue' && changesTypes(change.differences)) await feedAsTextSoon(work, ref, watched);
              return { what: change.what };
            }
            const emptied = change && (await newlyEmptied(watched, told));
            if (emptied !== undefined && isDue(told)) return emptied;
            const aside = change?.aside?.mark === toldAside ? undefined : change?.aside;
            if (aside && isDue(toldAside)) return { what: aside.what, aside: aside.mark };
            // Without a baseline nothing has been compared yet.
            if (change !== undefined && emptied === undefined && !aside) quiet = signature;
          }
          const took = performance.now() - began;
          work.report({ side, lookMs: Math.round(took) });
          await sleep(Math.min(60_000, Math.max(LOOK_EVERY_MS, took * SHARE)), undefined, { signal: work.signal });
        }
      }),

    /** One look at blue, before something that must not meet a changed schema, nor rows that are to be compared first. */
    lookAtSchema: (ref: RunRef): Promise<SchemaLook> =>
      perform(dependencies, ref, async (work) => {
        const watched = await watchedBy(work, ref, 'blue');
        const { what } = await lookAtSchema(watched);
        const { partitions } = await maybeEmptied(watched.session, ref.runId, tableFilter(ref.plan.tables));
        return { what, ...(partitions.length === 0 ? {} : { emptied: firstPartitions(partitions) }) };
      }),

    /** The run is to go on: whether it can with blue's schema as it is now. */
    acceptSchema: (ref: RunRef): Promise<Acceptance> =>
      perform(dependencies, ref, async (work) => {
        const watched = await watchedBy(work, ref, 'blue');
        const green = await work.session('green', 'schema watch', watching(work.signal, LOOK_WITHIN_MS));
        // Always: of a type that was changed and taken back nothing is seen any more but its rows in the feed.
        await sendAsText({ blue: watched.session, green }, work.run, ref.plan.replicate.streams, {
          signal: work.signal,
        });
        // Whoever goes on has seen that policies were forced on the owners of tables, which would stop the feed.
        await runAsOwnerWhereNeeded(green, { signal: work.signal });
        return acceptSchema(watched, green);
      }),

    /**
     * In the standby window nothing is held: what has changed on a side was told.
     *
     * @returns the first tables and columns of green that have no way back to blue, and those that blue has lost
     */
    takeSchemaOver: (ref: RunRef, side: Side, what: string): Promise<TakenOver> =>
      perform(dependencies, ref, async (work) => {
        const watched = await watchedBy(work, ref, side);
        return side === 'green'
          ? { onlyOnGreen: await takeOverServing(watched, what), droppedOnBlue: [] }
          : { onlyOnGreen: [], droppedOnBlue: await takeOverFollowing(watched, what) };
      }),
  };
}

async function watchedBy(work: Work, ref: RunRef, side: Side): Promise<Watched> {
  const session = await work.session(side, 'schema watch', watching(work.signal, LOOK_WITHIN_MS));
  return { session, side, runId: ref.runId, patterns: ref.plan.tables };
}

/** Partitions that may have been emptied since rows were compared; undefined without any, or where that is known. */
async function newlyEmptied(
  { session, side, runId, patterns }: Watched,
  told: string | undefined,
): Promise<SchemaNews | undefined> {
  const { partitions, files } = await maybeEmptied(session, runId, tableFilter(patterns));
  if (partitions.length === 0) return undefined;
  const seen = partitions.map((name) => [name, files[name]]);
  const mark = createHash('sha256').update(JSON.stringify(seen)).digest('base64url').slice(0, 16);
  if (mark === told) return undefined;
  const named = firstPartitions(partitions);
  return {
    what: `${side}: ${named.join(', ')} may have been emptied since rows were compared (TRUNCATE, or VACUUM FULL or CLUSTER, which leave the same trace)`,
    emptied: { partitions: named, mark },
  };
}

/** What green holds that is not replicated; undefined where that is known. */
async function newlyUnmoved(
  { session, runId }: Watched,
  known: readonly string[] | undefined,
): Promise<SchemaNews | undefined> {
  const unmoved = await unlessBusy(() => unmovedOnGreen(session, runId));
  if (unmoved === undefined || unmoved.join() === (known ?? []).join()) return undefined;
  const what =
    unmoved.length === 0
      ? 'green holds nothing any more that is not replicated to blue'
      : `green holds what is not replicated to blue: ${unmoved.join('; ')}`;
  return { what, unmoved };
}

/** What it is about is to be told without delay. */
const AS_TEXT_WITHIN_MS = 3_000;

/**
 * A feed in binary form stands still at once where a type has changed, and the lag fails its gate before anybody resumes.
 * Where this can't be done now, the resume does it.
 */
async function feedAsTextSoon(work: Work, ref: RunRef, { session: blue }: Watched): Promise<void> {
  try {
    const green = await work.session('green', 'schema watch', watching(work.signal, AS_TEXT_WITHIN_MS));
    const patience = { forMs: AS_TEXT_WITHIN_MS, signal: work.signal };
    await sendAsText({ blue, green }, work.run, ref.plan.replicate.streams, patience);
  } catch {
    work.signal.throwIfAborted();
  }
}

async function lookUnlessBusy(watched: Watched): Promise<SchemaChange | undefined> {
  return unlessBusy(async () => ((await isWatched(watched)) ? lookAtSchema(watched) : undefined));
}

/** Undefined where DDL is in the way: the next look sees it. */
async function unlessBusy<T>(look: () => Promise<T>): Promise<T | undefined> {
  try {
    return await look();
  } catch (error) {
    if (SCHEMA_IN_CHANGE.has(sqlState(error) ?? '')) return undefined;
    throw error;
  }
}
