import { randomUUID } from 'node:crypto';
import { VerdigrisError } from '../../errors.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import type { Work } from '../migrate/plan-work.js';
import type { OnProgress } from '../migrate/step-context.js';
import { readPartitionFiles } from '../partition-files.js';
import { closeSession, openSession } from '../session.js';
import type { Side } from '../../side.js';
import type { PartSize } from './cut-table.js';
import type { Difference } from './difference.js';
import {
  canTellSince,
  knowsPass,
  momentOf,
  notePass,
  onGreen,
  readLastPass,
  whyOthers,
  type LastPass,
  type MomentNow,
} from './last-pass.js';
import { PassProgress, type PassStart } from './pass-progress.js';
import { Pass } from './pass.js';
import { HASH_PROBE } from './row-hash.js';
import { cutLate, SideSessions, type Sides } from './side-sessions.js';
import { readTablePairs } from './table-pairs.js';

/** `all` rows, or those that were `changed` on either side since the last pass that found no difference began. */
export type VerifyScope = 'all' | 'changed';

export interface VerifyOptions extends Sides {
  readonly runId: string;
  /**
   * Names this pass: another try of the same pass goes on where the last one was, another pass starts over. The id of
   * the activity is one.
   */
  readonly pass: string;
  /** Ordinary tables and the topmost of partitioned ones. */
  readonly tables: readonly TableName[];
  /**
   * Whether there are others, which are left as they were compared before: then later passes build on nothing of this one,
   * but that partitions of its tables have not been emptied where it has found no difference. Default: false
   */
  readonly isPartial?: boolean;
  readonly work: Work;
  readonly onProgress: OnProgress;
  /** Default `all`. `changed` becomes `all` where no earlier pass is known that it could build on. */
  readonly scope?: VerifyScope;
  /** Lanes: ranges of one table or of several that are compared at once. Each has one session a side. Default 2. */
  readonly parallel?: number;
  /** Share of the time in which each lane rests. Default 0.1. */
  readonly rest?: number;
  /** How large parts are; the default is right for databases of all sizes. */
  readonly partSize?: PartSize;
  /** Asked once a second: undefined to go on, or why to wait. */
  readonly mayWork?: () => Promise<string | undefined>;
}

export interface Verification {
  /** What was compared in the end. */
  readonly scope: VerifyScope;
  readonly tables: number;
  /** Rows of the source that were compared: by their key only, where they had not changed. */
  readonly rowsVerified: number;
  /** All that was found; the search in a table ends at a thousand. */
  readonly differingRows: number;
  /** The first hundred of them, by table and key. */
  readonly differing: readonly Difference[];
  /** Values of new columns that were checked against their `up` or their default. */
  readonly derivedChecked: number;
  /** Columns that the target lacks, or has with another type, and new ones that nothing is known of: `public.orders.note`. */
  readonly notCompared: readonly string[];
}

const DEFAULT_PARALLEL = 2;

/**
 * Compares every table of the two sides row by row while the application writes, and the new columns of the target with
 * their `up` or their default while blue is written. Reads only, but for the markers and its own cursors.
 *
 * @throws VerdigrisError VerificationFailed when a table can't be compared, ReplicationStalled when the feed stands.
 */
export async function verifyTables(options: VerifyOptions): Promise<Verification> {
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const lanes: SideSessions[] = [];
  const cursors = await openSession(options.target, { purpose: 'verify progress', ...cutLate(options.signal) });
  try {
    const first = await SideSessions.open({ ...options, signal });
    lanes.push(first);
    await sameHashes(first);
    const pairs = await readTablePairs(first, options.tables, options.work);
    const progress = await PassProgress.open(cursors, options.runId, options.pass);
    const now = await momentsOf(first, options);
    const start = (await begun(first, progress, now, options)) ?? (await beginPass(first, progress, now, options));
    while (lanes.length < Math.min(options.parallel ?? DEFAULT_PARALLEL, Math.max(1, pairs.length * ROOM_FOR_LANES))) {
      lanes.push(await SideSessions.open({ ...options, signal }));
    }
    const pass = new Pass({ ...options, signal }, progress, pairs, start, lanes, stop);
    return await pass.run();
  } catch (error) {
    options.signal.throwIfAborted();
    throw stop.signal.aborted ? stop.signal.reason : error;
  } finally {
    await Promise.all([...lanes.map((lane) => lane.close()), closeSession(cursors)]);
  }
}

/** A lane for a few small tables would be opened for nothing. */
const ROOM_FOR_LANES = 4;

async function sameHashes(sessions: SideSessions): Promise<void> {
  const [source, target] = await sessions.each(async (session) => {
    const { rows } = await session.query<{ probe: string }>(HASH_PROBE);
    return rows[0]?.probe;
  });
  if (source === target) return;
  throw new VerdigrisError({
    type: 'VerificationFailed',
    message: "the two servers hash the same values differently, so their rows can't be compared by hash",
    nextStep: 'this is known of machines with different byte orders only: compare the tables with a tool of your own',
  });
}

async function momentsOf(sessions: SideSessions, options: VerifyOptions): Promise<Record<Side, MomentNow>> {
  const [source, target] = await sessions.each(momentOf);
  return options.source.side === 'blue' ? { blue: source, green: target } : { blue: target, green: source };
}

/** The pass that another try has begun. A server that has been replaced since may lack rows that were compared. */
async function begun(
  sessions: SideSessions,
  progress: PassProgress,
  now: Record<Side, MomentNow>,
  { runId }: VerifyOptions,
): Promise<PassStart | undefined> {
  const start = progress.start();
  if (start === undefined) return undefined;
  // A green that was put back has its cursors of then, behind which it had all that they stand for.
  const isKnown = await sessions.onBlue((blue) => knowsPass(blue, runId, 'pass begun', start.id));
  if (isKnown && whyOthers(start.began, now) === undefined) return start;
  await progress.forget();
  return undefined;
}

async function beginPass(
  sessions: SideSessions,
  progress: PassProgress,
  began: Record<Side, MomentNow>,
  options: VerifyOptions,
): Promise<PassStart> {
  const moved = new Set(options.tables.map(formatTableName));
  const files = await sessions.on('source', (session) =>
    readPartitionFiles(session, (root) => moved.has(formatTableName(root))),
  );
  const since = options.scope === 'changed' ? await baseOf(sessions, options, began) : null;
  const start = { id: randomUUID(), began, since, files };
  await sessions.onBlue((blue) => notePass(blue, options.runId, 'pass begun', start.id));
  await progress.begin(start);
  return start;
}

/**
 * Green's own record goes back with a green that was put back, to a pass whose rows it had. A blue that was put back to before
 * that pass has grown beyond its numbers of then, perhaps: what it lacks would be no change of anybody's.
 */
async function baseOf(
  sessions: SideSessions,
  options: VerifyOptions,
  now: Record<Side, MomentNow>,
): Promise<LastPass | null> {
  const last = await onGreen(options, (green) => readLastPass(green, options.runId));
  if (last === undefined) return null;
  if (!(await sessions.onBlue((blue) => knowsPass(blue, options.runId, 'pass ended', last.id)))) return null;
  const { blue, green } = last.began;
  return canTellSince('blue', blue, now.blue) && canTellSince('green', green, now.green) ? last : null;
}
