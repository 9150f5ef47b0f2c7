import type { Side } from '../side.js';

/*
 * The mark: an entry of the included file that leads nowhere. What it says is its database name, so SHOW DATABASES tells
 * which epoch a PgBouncer has really loaded, and a worker that wakes up late or takes over finds out without a database
 * of ours.
 */

export interface Mark {
  readonly epoch: number;
  /** Where the entries lead. */
  readonly side: Side;
  /** `moving`: a promotion is about to pause, or has paused; a pause that is found is ours. `settled`: it is not. */
  readonly state: 'moving' | 'settled';
  /** Of the worker that announced it, 8 hex digits: only while `moving`, and not in marks of earlier versions. */
  readonly token?: string | undefined;
  /**
   * Another worker has settled it than the one that was about to pause, which may only be frozen: a pause that is found
   * later may be that one's, and so may its settings. Stays as long as the mark does.
   */
  readonly overtaken?: boolean;
}

const PREFIX = 'verdigris_';

/** Name of the mark's entry. */
export function markName(migration: string): string {
  return `${PREFIX}${migration}`;
}

/** Whether an entry holds the mark of a migration, by its name. */
export function isMark(entry: string): boolean {
  return entry.startsWith(PREFIX);
}

/** The migration whose mark an entry of that name is. */
export function markedBy(entry: string): string {
  return entry.slice(PREFIX.length);
}

/** Other migrations that have announced a pause, by the entries that a PgBouncer shows. */
export function movingOthers(
  shown: readonly { readonly name: string; readonly database: string }[],
  migration: string,
): string[] {
  return shown
    .filter(({ name, database }) => isMark(name) && parseMark(database)?.state === 'moving')
    .map(({ name }) => markedBy(name))
    .filter((other) => other !== migration);
}

/** Nothing listens at port 1: whoever connects to the mark is told that there is no server. */
export function markValue({ epoch, side, state, token, overtaken = false }: Mark): string {
  const more = `${token === undefined ? '' : `_${token}`}${overtaken ? '_overtaken' : ''}`;
  return `host=127.0.0.1 port=1 dbname=epoch_${epoch}_${side}_${state}${more}`;
}

/** Reads it out of the column `database` of SHOW DATABASES. */
export function parseMark(database: string | undefined): Mark | undefined {
  const [, epoch, side, state, token, overtaken] =
    /^epoch_([0-9]+)_(blue|green)_(moving|settled)(?:_([0-9a-f]{8}))?(_overtaken)?$/.exec(database ?? '') ?? [];
  if (epoch === undefined || side === undefined || state === undefined) return undefined;
  return {
    epoch: Number(epoch),
    side: side === 'blue' ? 'blue' : 'green',
    state: state === 'moving' ? 'moving' : 'settled',
    ...(token === undefined ? {} : { token }),
    ...(overtaken === undefined ? {} : { overtaken: true }),
  };
}

/** Whether a pause that is found under this mark is ours to end. */
export function claimsPauses(mark: Mark | undefined): boolean {
  return mark?.state === 'moving' || mark?.overtaken === true;
}
