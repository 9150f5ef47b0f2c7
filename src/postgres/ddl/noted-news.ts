import type { TableName } from '../../plan/table-name.js';
import { schemaFilter, tableFilter, type TablePatterns } from '../catalog-pattern.js';
import type { Session } from '../session.js';
import { readNotedDdl, type KnownNotes, type NotedDdl } from './event-trigger.js';

/** What the notes of the event triggers say, for people. */
export interface NotedNews {
  /** What the comparison does not look at: views, functions, sequences, types that no column uses. A line each. */
  readonly others: readonly string[];
  /**
   * The same in schemas from which the plan moves nothing, without the sequences of the tables there; but not of functions
   * that tables which are moved call.
   */
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
  const functions = new Map<string, string>();
  for await (const note of readNotedDdl(session, known)) {
    const { objectType, schema, name } = note;
    if (schema !== null && isExcluded({ schema, name })) continue;
    const within = objectType === 'schema' ? name : schema;
    const isAside = within !== null && !isReached(within);
    if (!isAside && authors.size < MOST_AUTHORS) authors.add(byWhom(note));
    if (COMPARED.has(objectType) || isSequenceLeftOut(note, isMoved)) continue;
    const lines = isAside ? aside : others;
    if (lines.size < MOST_LINES) lines.add(lineOf(note));
    if (isAside && objectType === 'function' && functions.size < MOST_LINES) functions.set(note.object, lineOf(note));
    if (others.size === MOST_LINES) break;
  }
  for (const called of await readCalled(session, [...functions.keys()], isMoved)) {
    const line = functions.get(called);
    if (line !== undefined && aside.delete(line)) others.add(line);
  }
  return { others: [...others], aside: [...aside], authors: [...authors] };
}

/** Of these functions those that a trigger, default, constraint, index or policy of a moved table calls. */
async function readCalled(
  session: Session,
  functions: readonly string[],
  isMoved: (table: TableName) => boolean,
): Promise<string[]> {
  if (functions.length === 0) return [];
  const { rows } = await session.query<TableName & { called: string }>(CALLED, [functions]);
  return rows.filter(isMoved).map(({ called }) => called);
}

const CALLED = `
  WITH calls AS (
    SELECT t.tgfoid AS function, t.tgrelid AS relation FROM pg_trigger t WHERE NOT t.tgisinternal
    UNION
    SELECT d.refobjid, coalesce(a.adrelid, k.conrelid, p.polrelid, i.indrelid)
      FROM pg_depend d
      LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
      LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
      LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
      LEFT JOIN pg_index i ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
     WHERE d.refclassid = 'pg_proc'::regclass)
  SELECT DISTINCT identified.identity AS called, n.nspname AS schema, r.relname AS name
    FROM calls
    CROSS JOIN LATERAL pg_identify_object('pg_proc'::regclass, calls.function, 0) AS identified
    JOIN pg_class r ON r.oid = coalesce(pg_partition_root(calls.relation), calls.relation)
    JOIN pg_namespace n ON n.oid = r.relnamespace
   WHERE identified.identity = ANY ($1)`;

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
