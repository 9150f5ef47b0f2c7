import { parseDuration } from '../../plan/duration.js';
import type { z } from 'zod';
import { planSchema } from '../../plan/schema.js';
import { parseSize } from '../lag.js';
import type { Session } from '../session.js';

/** How indexes are built, the plan's and blue's alike. */
export interface IndexSettings {
  /** How many at once, each on a session of its own. */
  readonly parallel: number;
  /** The same while nobody uses green's tables. Default: `parallel` */
  readonly parallelOffline?: number;
  /** A build that another session has waited for so long is cancelled and tried again. */
  readonly maxBlockingMs: number;
  /** maintenance_work_mem of each build; without it a share of the server's shared_buffers. */
  readonly memoryBytes?: number;
  /** One build after the other, without parallel workers, even while nobody uses green's tables. */
  readonly oneProcess?: true;
}

export const DEFAULT_INDEX_SETTINGS: IndexSettings = { parallel: 2, parallelOffline: 4, maxBlockingMs: 2_000 };

/**
 * The settings of a plan. One that an older worker has parsed has `parallel` alone, named or not: it is taken as named,
 * which at worst builds fewer indexes at once than could be.
 */
export function indexSettings(plan: { readonly indexes: z.input<typeof planSchema.shape.indexes> }): IndexSettings {
  const { parallel, parallelOffline, maxBlocking, memory } = planSchema.shape.indexes.parse(plan.indexes);
  return {
    parallel,
    parallelOffline,
    maxBlockingMs: parseDuration(maxBlocking),
    ...(memory === undefined ? {} : { memoryBytes: parseSize(memory) }),
  };
}

/** The settings for builds on tables that nobody uses yet. */
export function whileOffline(settings: IndexSettings): IndexSettings {
  if (settings.oneProcess) return settings;
  return { ...settings, parallel: settings.parallelOffline ?? settings.parallel };
}

/** Above this a sort gains nothing: its runs are merged from disk at the speed of the disk. */
const MOST_BYTES = 1024 ** 3;

/**
 * Gives a session the memory that an index is sorted in. By default all builds together have as much as shared_buffers,
 * which whoever runs the server has sized to its memory; never less than the server's own setting, and never more than
 * 1 GB for that reason. max_parallel_maintenance_workers is left as it is, unless each build is to be one process.
 */
export async function giveIndexMemory(session: Session, settings: IndexSettings): Promise<void> {
  await session.query(
    `SELECT set_config('maintenance_work_mem', (bytes / 1024)::text || 'kB', false)
       FROM (SELECT coalesce($1::bigint,
                             GREATEST(pg_size_bytes(current_setting('maintenance_work_mem')),
                                      LEAST($3::bigint, pg_size_bytes(current_setting('shared_buffers')) / $2::int))) AS bytes) share`,
    [settings.memoryBytes ?? null, settings.parallel, MOST_BYTES],
  );
  if (settings.oneProcess) await session.query(`SELECT set_config('max_parallel_maintenance_workers', '0', false)`);
}
