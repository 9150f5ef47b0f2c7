import type { Fact, FactKind, TableFacts } from './table-facts.js';

/** One fact that is not as it was. */
export interface Difference {
  readonly table: string;
  readonly kind: FactKind;
  readonly name: string;
  /** Null: it was not there. */
  readonly before: string | null;
  /** Null: it is there no more. */
  readonly after: string | null;
}

/** What has changed between two looks. Of a table that is new or gone only that is said. Pure. */
export function compareFacts(before: TableFacts, after: TableFacts): Difference[] {
  const tables = [...new Set([...before.keys(), ...after.keys()])].sort();
  return tables.flatMap((table): Difference[] => {
    const [was, is] = [before.get(table), after.get(table)];
    if (was === undefined || is === undefined) {
      const there = (facts: readonly Fact[] | undefined): string | null => (facts === undefined ? null : 'there');
      return [{ table, kind: 'table', name: '', before: there(was), after: there(is) }];
    }
    const [old, now] = [byKey(was), byKey(is)];
    return [...new Set([...old.keys(), ...now.keys()])].flatMap((key): Difference[] => {
      const [one, other] = [old.get(key), now.get(key)];
      const [kind, name] = one ?? other ?? ['table', ''];
      const [definition, next] = [one?.[2] ?? null, other?.[2] ?? null];
      return definition === next ? [] : [{ table, kind, name, before: definition, after: next }];
    });
  });
}

function byKey(facts: readonly Fact[]): Map<string, Fact> {
  return new Map(facts.map((fact) => [`${fact[0]}\0${fact[1]}`, fact]));
}

/** Whether rows that were written before may not be of the type that their column has now. Pure. */
export function changesTypes(differences: readonly Difference[]): boolean {
  return differences.some(({ kind, before, after }) => kind === 'column' && before !== null && after !== null);
}

/** Differences for people, a line each. A type that several tables use is told once. */
export function describeDifferences(differences: readonly Difference[]): string[] {
  return [...new Set(differences.filter(isNews(differences)).map(describe))];
}

/** A column that is new or gone is told by its type: its number, default and NOT NULL go without saying. */
function isNews(all: readonly Difference[]): (difference: Difference) => boolean {
  const whole = new Set(
    all
      .filter((d) => d.kind === 'column' && (d.before === null) !== (d.after === null))
      .map((d) => `${d.table}\0${d.name}`),
  );
  const parts: ReadonlySet<FactKind> = new Set(['column identity', 'not null', 'default']);
  return (d) => !(parts.has(d.kind) && whole.has(`${d.table}\0${d.name}`));
}

function describe(difference: Difference): string {
  const { table, kind, name, before, after } = difference;
  if (kind === 'identity') return `table ${table} was dropped and made anew`;
  if (kind === 'column identity') return `${table}: column ${name} was dropped and made anew`;
  if (kind === 'not null') return `${table}: column ${name} is ${after === null ? 'no longer' : 'now'} NOT NULL`;
  if (kind === 'type') return `type ${name} of a column was (${before ?? 'not used'}), is (${after ?? 'not used'})`;
  const what = kind === 'table' ? `table ${table}` : `${table}: ${kind}${name === '' ? '' : ` ${name}`}`;
  if (before === null) return `${what} is new${kind === 'table' ? '' : ` (${after ?? ''})`}`;
  return after === null ? `${what} is gone` : `${what} was (${before}), is (${after})`;
}

/** What replication does not look at, and no row is refused for. */
const HARMLESS: ReadonlySet<FactKind> = new Set(['default', 'trigger']);

/**
 * Of what has changed on blue, what the run can't go on with: it could stop a feed, or rows would be missing or differ.
 * A change that was made on green as well is fine, unless rows went with it. Pure.
 *
 * @param blue the facts as they are now
 */
export function unacceptable(differences: readonly Difference[], green: TableFacts, blue: TableFacts): string[] {
  const refused = differences.flatMap((difference): [Difference, string][] => {
    const why = whyNot(difference, green, blue);
    return why === undefined ? [] : [[difference, why]];
  });
  const news = refused.filter(([difference]) => isNews(differences)(difference));
  return [...new Set((news.length > 0 ? news : refused).map(([difference, why]) => `${describe(difference)}: ${why}`))];
}

function whyNot(difference: Difference, green: TableFacts, blue: TableFacts): string | undefined {
  const { table, kind, name, before, after } = difference;
  const [here, there] = [blue.get(table), green.get(table)];
  if (kind === 'identity') return 'its rows are not replicated any more';
  if (kind === 'column identity' && before !== null && after !== null) return 'its values are not those of green';
  if (kind === 'table' && (before === null || after === null)) {
    if (after === null) return there === undefined ? undefined : 'drop it on green as well, or make it again';
    if (isPartition(here) && isPartition(there)) return undefined;
    return 'it is not replicated: drop it, or move it to a schema that the plan leaves out';
  }
  // Of tables that inherit in the old way each is replicated by itself.
  const wasPartition = isPartition([[kind, name, before ?? '']]);
  if (wasPartition && !isPartition(here)) {
    return 'it is not replicated any more: attach it again, drop it on both sides, or move it to a schema that the plan leaves out';
  }
  if (HARMLESS.has(kind)) return undefined;
  if (kind === 'index') return isStricter(difference, there, here) ? NOT_ON_GREEN : undefined;
  // A column's number differs from server to server.
  if (kind === 'column identity') return undefined;
  const facts = kind === 'type' ? [...green.values()].flat() : (there ?? []);
  const onGreen = facts.find(([of, called]) => of === kind && called === name)?.[2] ?? null;
  return onGreen === after ? undefined : NOT_ON_GREEN;
}

const NOT_ON_GREEN = 'green does not have that change';

/** A table that inherits in the old way has no bounds: its rows are not those of its parent. */
function isPartition(facts: readonly Fact[] | undefined): boolean {
  return facts?.some(([kind, , bounds]) => kind === 'partition' && bounds !== '') === true;
}

/** Whether green refuses duplicates by a unique index that blue has no more: the first one would stop the feed. */
function isStricter(
  { name, before }: Difference,
  green: readonly Fact[] | undefined,
  blue: readonly Fact[] | undefined,
): boolean {
  const indexes = (facts: readonly Fact[] = []): readonly Fact[] => facts.filter(([kind]) => kind === 'index');
  const onGreen = indexes(green).find(([, called]) => called === name)?.[2];
  if (!isUnique(before ?? '') || !isUnique(onGreen ?? '')) return false;
  return !indexes(blue).some(([, , definition]) => withoutName(definition) === withoutName(onGreen ?? ''));
}

function isUnique(definition: string): boolean {
  return definition.startsWith('CREATE UNIQUE INDEX ');
}

/** It may have been renamed, or built anew under another name. */
function withoutName(definition: string): string {
  return definition.replace(/ INDEX .*? ON /, ' INDEX ON ');
}
