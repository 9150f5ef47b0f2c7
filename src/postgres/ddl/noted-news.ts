import { tableFilter, type TablePatterns } from '../catalog-pattern.js';
import type { Session } from '../session.js';
import { readNotedDdl, type KnownNotes, type NotedDdl } from './event-trigger.js';

/** What the notes of the event triggers say, for people. */
export interface NotedNews {
  /** What the comparison does not look at: views, functions, sequences, types that no column uses. A line each. */
  readonly others: readonly string[];
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
export async function readNotedNews(
  session: Session,
  known: KnownNotes,
  { exclude }: TablePatterns,
): Promise<NotedNews> {
  const leftOut = tableFilter({ include: exclude, exclude: [] });
  const [others, authors] = [new Set<string>(), new Set<string>()];
  for await (const note of readNotedDdl(session, known)) {
    const { schema, name } = note;
    if (schema !== null && leftOut({ schema, name })) continue;
    if (authors.size < MOST_AUTHORS) authors.add(byWhom(note));
    if (!COMPARED.has(note.objectType)) others.add(lineOf(note));
    if (others.size === MOST_LINES) break;
  }
  return { others: [...others], authors: [...authors] };
}

function lineOf({ tag, objectType, object }: NotedDdl): string {
  return `${tag} (${objectType} ${object})`;
}

function byWhom({ role, application }: NotedDdl): string {
  return application === '' ? `by ${role}` : `by ${role}, application "${application}"`;
}
