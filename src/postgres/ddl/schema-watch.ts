import { createHash } from 'node:crypto';
import type { Side } from '../../side.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { readTables, replicatedRoots, type TableInfo } from '../catalog.js';
import { tableFilter, type TablePatterns } from '../catalog-pattern.js';
import {
  noteUnlessGreenServes,
  readProgress,
  writeProgress,
  type Noted,
  type ProgressKey,
} from '../migrate/progress-row.js';
import { onlyOnGreen, readOnlyOnGreen } from '../only-on-green.js';
import { readPartitionFiles, rememberedFiles, rememberFiles } from '../partition-files.js';
import type { Session } from '../session.js';
import { inTransaction } from '../session.js';
import { hasState, recordEvent } from '../state.js';
import { attachedWithRows } from './attached-rows.js';
import { compareFacts, describeDifferences, unacceptable, type Difference } from './compare-facts.js';
import { readKnownNotes, type KnownNotes } from './event-trigger.js';
import { readNotedNews, type NotedNews } from './noted-news.js';
import { readFactHashes, readTableFacts, type Fact, type TableFacts } from './table-facts.js';

/*
 * The schema of one side as it was when the run began to rely on it, and what has been changed since: by comparison, on
 * every server, and by the notes of the event triggers where those could be made.
 */

/** What every look is compared with; kept in verdigris.progress of the side. */
interface Baseline extends KnownNotes {
  /** Hash of the facts of each table. */
  readonly tables: Readonly<Record<string, string>>;
}

/** The facts themselves: read only when a hash is another one. */
type BaselineFacts = Readonly<Record<string, readonly Fact[]>>;

export interface Watched {
  readonly session: Session;
  readonly side: Side;
  readonly runId: string;
  readonly patterns: TablePatterns;
}

function baselineKey({ runId, side }: Watched): ProgressKey {
  return { runId, step: 'schema baseline', object: side };
}

function factsKey({ runId, side }: Watched): ProgressKey {
  return { runId, step: 'schema facts', object: side };
}

/** Writes down how the schema is now, unless that was done before: what changes from here on is noticed. */
export async function beginSchemaWatch(watched: Watched): Promise<void> {
  const { session, runId, patterns } = watched;
  const isBegun = (await readBaseline(watched)) !== undefined;
  // Of a run that an earlier version has begun nobody knows what was emptied since.
  if (!isBegun && (await rememberedFiles(session, runId, 'compared')) === undefined) {
    await rememberFiles(session, runId, 'compared', await readPartitionFiles(session, tableFilter(patterns)));
  }
  if (!isBegun) await writeBaseline(watched);
}

/** Whether the run has come so far that its schema is watched. */
export async function isWatched(watched: Watched): Promise<boolean> {
  return (await readBaseline(watched)) !== undefined;
}

async function readBaseline(watched: Watched): Promise<Baseline | undefined> {
  if (!(await hasState(watched.session))) return undefined;
  return (await readProgress<Baseline>(watched.session, baselineKey(watched)))?.state;
}

async function writeBaseline(watched: Watched): Promise<void> {
  await inSnapshot(watched.session, async () => {
    for (const { key, state } of await readBaselineNow(watched)) await writeProgress(watched.session, key, state, true);
  });
}

/** Facts and notes belong together. */
function inSnapshot<T>(session: Session, work: () => Promise<T>): Promise<T> {
  return inTransaction(session, async () => {
    await session.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ');
    return work();
  });
}

async function readBaselineNow(watched: Watched): Promise<Noted[]> {
  const { session, patterns } = watched;
  const [hashes, facts] = [await readFactHashes(session, patterns), await readTableFacts(session, patterns)];
  const known = await readKnownNotes(session);
  const tables = Object.fromEntries(hashes);
  return [
    { key: factsKey(watched), state: Object.fromEntries(facts) satisfies BaselineFacts },
    { key: baselineKey(watched), state: { tables, ...known } satisfies Baseline },
  ];
}

/**
 * Writes down how green is before it is opened, anew in each try of the promotion: what is made there from then on is
 * noticed, whenever the watch begins, and what is written into the tables that it alone has (only-on-green.ts). Nothing
 * where green serves by now.
 *
 * @param blue the tables of blue that the plan moves
 */
export async function rememberClosedGreen(
  green: Watched,
  migration: string,
  blue: readonly TableInfo[],
): Promise<void> {
  const { session, runId, patterns } = green;
  const noted = await inSnapshot(session, async () => [
    ...(await readBaselineNow(green)),
    await readOnlyOnGreen(session, runId, onlyOnGreen(blue, await readTables(session, patterns))),
  ]);
  await noteUnlessGreenServes(session, migration, noted);
}

/** Tables that are new since the last look that was taken over: nobody has been told of them yet. */
export async function readNewTables(watched: Watched): Promise<TableName[]> {
  const baseline = await readBaseline(watched);
  if (baseline === undefined) return [];
  return replicatedRoots(await readTables(watched.session, watched.patterns))
    .map(({ name }) => name)
    .filter((name) => baseline.tables[formatTableName(name)] === undefined);
}

export interface SchemaChange {
  readonly differences: readonly Difference[];
  /** One line for people; null when nothing has changed. */
  readonly what: string | null;
  /** What has changed only where the plan moves nothing; null when nothing has, or when `what` says it. */
  readonly aside: Aside | null;
}

/** DDL that can't harm the run. */
export interface Aside {
  /** One line for people. */
  readonly what: string;
  /** Another one when there is more. */
  readonly mark: string;
}

const NOTHING: SchemaChange = { differences: [], what: null, aside: null };

/** Compares the schema with the baseline. Without one (the run has not come so far) nothing has changed. */
export async function lookAtSchema(watched: Watched): Promise<SchemaChange> {
  const baseline = await readBaseline(watched);
  if (baseline === undefined) return NOTHING;
  const { session, patterns } = watched;
  const hashes = await readFactHashes(session, patterns);
  const noted = await readNotedNews(session, baseline, patterns);
  const differences = isSame(baseline, hashes)
    ? []
    : compareFacts(await baselineFacts(watched), await readTableFacts(session, patterns));
  if (differences.length === 0 && noted.others.length === 0) return { ...NOTHING, aside: asideOf(watched.side, noted) };
  return { differences, what: describe(watched.side, differences, noted), aside: null };
}

function isSame(baseline: Baseline, hashes: ReadonlyMap<string, string>): boolean {
  const tables = Object.keys(baseline.tables);
  return tables.length === hashes.size && tables.every((table) => baseline.tables[table] === hashes.get(table));
}

async function baselineFacts(watched: Watched): Promise<TableFacts> {
  const facts = (await readProgress<BaselineFacts>(watched.session, factsKey(watched)))?.state ?? {};
  return new Map(Object.entries(facts));
}

const MOST_LINES = 8;

function describe(side: Side, differences: readonly Difference[], { others, aside, authors }: NotedNews): string {
  const lines = [...describeDifferences(differences), ...others, ...aside];
  return `${side}'s schema has changed: ${firstOf(lines)}${authors.length === 0 ? '' : ` (${authors.join(', ')})`}`;
}

function firstOf(lines: readonly string[]): string {
  const more = lines.length - MOST_LINES;
  return `${lines.slice(0, MOST_LINES).join('; ')}${more > 0 ? `; and ${more} more` : ''}`;
}

function asideOf(side: Side, { aside }: NotedNews): Aside | null {
  if (aside.length === 0) return null;
  const mark = markOf(aside, 16);
  // The latest are the news.
  return { what: `DDL on ${side} where the plan moves nothing: ${firstOf([...aside].reverse())}`, mark };
}

function markOf(lines: readonly string[], length: number): string {
  return createHash('sha256').update(JSON.stringify(lines)).digest('base64url').slice(0, length);
}

/** How many tables and columns that a rollback would lose are named: a job may make some every minute, for weeks. */
const MOST_LOST = 20;

/** The first of them, and how many more there are: with a mark, since whoever accepts a loss accepts these and no others. */
function firstLost(lost: readonly string[]): string[] {
  const others = lost.slice(MOST_LOST);
  if (others.length === 0) return [...lost];
  return [...lost.slice(0, MOST_LOST), `and ${others.length} more (mark ${markOf(others, 6)})`];
}

export interface Acceptance {
  /** Why the run can't go on; null when it can. */
  readonly refused: string | null;
  /** What has changed and is taken as it is now. */
  readonly accepted: string | null;
}

/**
 * Somebody says that the run may go on: what has been reverted is forgotten; what can harm neither feed, or was made on
 * green as well, is taken over into the baseline; anything else is refused. So are partitions whose rows green lacks.
 *
 * @param markerMs see Attached
 */
export async function acceptSchema(blue: Watched, green: Session, markerMs?: number): Promise<Acceptance> {
  const first = await lookAtSchema(blue);
  const refused = await whyRefused(blue, green, first.differences, markerMs);
  // Rows may have been counted for a while: what has come meanwhile was looked at by nobody.
  const { what, aside, differences } = await lookAtSchema(blue);
  // In words, only the first of them are told.
  const isSameAsBefore = what === first.what && JSON.stringify(differences) === JSON.stringify(first.differences);
  if (refused.length === 0 && !isSameAsBefore) refused.push(`it was changed while it was looked at: ${what ?? 'back'}`);
  if (refused.length > 0) {
    return {
      refused: `the run can't go on with what was changed on blue: ${firstOf(refused)}. Undo it on blue or make it on green as well, then resume; or roll back and start again`,
      accepted: null,
    };
  }
  if (what === null) {
    await writeBaseline(blue);
    return { refused: null, accepted: aside?.what ?? null };
  }
  await takeOver(blue, what);
  return { refused: null, accepted: what };
}

async function whyRefused(
  watched: Watched,
  green: Session,
  differences: readonly Difference[],
  markerMs?: number,
): Promise<string[]> {
  const { session: blue, patterns } = watched;
  if (differences.length > 0) {
    const refused = unacceptable(
      differences,
      await readTableFacts(green, patterns),
      await readTableFacts(blue, patterns),
    );
    if (refused.length > 0) return refused;
  }
  return attachedWithRows({ blue, green, patterns, differences, baseline: baselineKey(watched), markerMs });
}

/** A table, or a column of one, that has been made since writes moved. */
interface Made {
  readonly table: string;
  readonly column: string | null;
}

/**
 * Takes green's schema over while green serves.
 *
 * @returns the first tables and columns that are there since writes moved, in words, and how many more: what is in them has
 * no way back to blue
 */
export async function takeOverServing(green: Watched, what: string): Promise<string[]> {
  const { session, runId, patterns } = green;
  const key: ProgressKey = { runId, step: 'made since the promotion', object: 'green' };
  const { differences } = await lookAtSchema(green);
  const facts = await readTableFacts(session, patterns);
  const known = (await readProgress<readonly Made[]>(session, key))?.state ?? [];
  const made = differences
    .filter(({ kind, before }) => before === null && (kind === 'table' || kind === 'column'))
    .map(({ table, kind, name }): Made => ({ table, column: kind === 'column' ? name : null }));
  const isThere = ({ table, column }: Made): boolean => {
    const now = facts.get(table);
    // The rows of a partition are published as its parent's.
    if (now === undefined || now.some(([of]) => of === 'partition')) return false;
    return column === null || now.some(([of, name]) => of === 'column' && name === column);
  };
  const left = [...known, ...made].filter(isThere);
  await writeProgress(session, key, left, false);
  await takeOver(green, what);
  const words = left.map(({ table, column }) => (column === null ? `table ${table}` : `column ${table}.${column}`));
  return firstLost([...new Set(words)]);
}

/**
 * Takes blue's schema over while it only follows.
 *
 * @returns the first tables and columns that were dropped there since writes moved, in words, made anew or not, and how many
 * more: what was in them is missing after a rollback
 */
export async function takeOverFollowing(blue: Watched, what: string): Promise<string[]> {
  const { session, runId } = blue;
  const key: ProgressKey = { runId, step: 'dropped since the promotion', object: 'blue' };
  const { differences } = await lookAtSchema(blue);
  const known = (await readProgress<readonly string[]>(session, key))?.state ?? [];
  const dropped = [...new Set([...known, ...differences.flatMap(droppedBy)])];
  await writeProgress(session, key, dropped, false);
  await takeOver(blue, what);
  return firstLost(dropped);
}

function droppedBy({ table, kind, name, before, after }: Difference): string[] {
  if (before === null) return [];
  // The identity of what was made anew is another one.
  if (kind === 'identity' || (kind === 'table' && after === null)) return [`table ${table}`];
  return kind === 'column identity' || (kind === 'column' && after === null) ? [`column ${table}.${name}`] : [];
}

/** Takes the schema as it is now for the one that the next look is compared with. */
export async function takeOver(watched: Watched, what: string): Promise<void> {
  await writeBaseline(watched);
  await recordEvent(watched.session, watched.runId, 'schema change accepted', { what });
}
