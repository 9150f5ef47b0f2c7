import { parseDuration } from '../../plan/duration.js';
import type { Plan } from '../../plan/schema.js';
import { parseSize } from '../lag.js';
import type { Session } from '../session.js';

/** How indexes are built, the plan's and blue's alike. */
export interface IndexSettings {
  /** How many at once, each on a session of its own. */
  readonly parallel: number;
  /** A build that another session has waited for so long is cancelled and tried again. */
  readonly maxBlockingMs: number;
  /** maintenance_work_mem of each build; without it a share of the server's shared_buffers. */
  readonly memoryBytes?: number;
  /** One build after the other, without parallel workers, even while nobody uses green's tables. */
  readonly oneProcess?: true;
}

export const DEFAULT_INDEX_SETTINGS: IndexSettings = { parallel: 2, maxBlockingMs: 2_000 };

export function indexSettings({ indexes }: Pick<Plan, 'indexes'>): IndexSettings {
  return {
    parallel: indexes.parallel,
    maxBlockingMs: parseDuration(indexes.maxBlocking),
    ...(indexes.memory === undefined ? {} : { memoryBytes: parseSize(indexes.memory) }),
  };
}

/**
 * While nobody uses green's tables there is nobody to spare: more builds at once keep all its processors busy, when one
 * of them merges or writes what it has sorted.
 */
const PARALLEL_OFFLINE = 4;

/** The settings for builds on tables that nobody uses yet. */
export function whileOffline(settings: IndexSettings): IndexSettings {
  if (settings.oneProcess) return settings;
  return { ...settings, parallel: Math.max(settings.parallel, PARALLEL_OFFLINE) };
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
