import type { TableName } from '../../plan/table-name.js';
import { schemaFilter, tableFilter, type TablePatterns } from '../catalog-pattern.js';
import type { Session } from '../session.js';
import { readNotedDdl, type KnownNotes, type NotedDdl } from './event-trigger.js';

/** What the notes of the event triggers say, for people. */
export interface NotedNews {
  /** What the comparison does not look at: views, functions, sequences, types that no column uses. A line each. */
  readonly others: readonly string[];
  /** The same in schemas from which the plan moves nothing, without the sequences of the tables there. */
  readonly aside: readonly string[];
  /** The first of those who did it, or anything else where the plan moves tables. */
  readonly authors: readonly string[];
}

/** What the comparison of facts sees by itself: a note about it only says who it was. */
const COMPARED: ReadonlySet<string> = new Set([
  'table',
  'table column',
  'table constraint',
  'index',
  'trigger',
  'default value',
]);

/** More lines than these nobody reads: what is kept of the notes is bounded, however many there are. */
const MOST_LINES = 1_000;
const MOST_AUTHORS = 3;

/** Reads what was noted beyond what is known. */
export async function readNotedNews(session: Session, known: KnownNotes, patterns: TablePatterns): Promise<NotedNews> {
  const isExcluded = tableFilter({ include: patterns.exclude, exclude: [] });
  const isReached = schemaFilter({ include: patterns.include, exclude: [] });
  const isMoved = tableFilter(patterns);
  const [others, aside, authors] = [new Set<string>(), new Set<string>(), new Set<string>()];
  for await (const note of readNotedDdl(session, known)) {
    const { objectType, schema, name } = note;
    if (schema !== null && isExcluded({ schema, name })) continue;
    const within = objectType === 'schema' ? name : schema;
    const isAside = within !== null && !isReached(within);
    if (!isAside && authors.size < MOST_AUTHORS) authors.add(byWhom(note));
    if (COMPARED.has(objectType) || isSequenceLeftOut(note, isMoved)) continue;
    const lines = isAside ? aside : others;
    if (lines.size < MOST_LINES) lines.add(lineOf(note));
    if (others.size === MOST_LINES) break;
  }
  return { others: [...others], aside: [...aside], authors: [...authors] };
}

/** It comes and goes with a table that stays on blue; or is gone, which is told where it is not by its table. */
function isSequenceLeftOut(
  { objectType, tag, isGone, ownedBy }: NotedDdl,
  isMoved: (table: TableName) => boolean,
): boolean {
  if (objectType !== 'sequence' || tag.startsWith('DROP ')) return false;
  return isGone || (ownedBy !== null && !isMoved(ownedBy));
}

function lineOf({ tag, objectType, object }: NotedDdl): string {
  return `${tag} (${objectType} ${object})`;
}

function byWhom({ role, application }: NotedDdl): string {
  return application === '' ? `by ${role}` : `by ${role}, application "${application}"`;
}
