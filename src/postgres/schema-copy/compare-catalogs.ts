import type { Migration, Plan } from '../../plan/schema.js';
import { formatName, formatTableName, parseTableName, type TableName } from '../../plan/table-name.js';
import { tableFilter, type TablePatterns } from '../catalog-pattern.js';
import { USER_SCHEMA } from '../catalog.js';
import { withoutNotValid } from '../migrate/constraint-definition.js';
import { majorVersion } from '../retry.js';
import type { Session } from '../session.js';
import {
  allQuoted,
  describeCatalog,
  PARTITION_IDENTITY,
  relationOf,
  withoutNeedlessQuotes,
  type DescribedObject,
} from './catalog-description.js';
import { readUserObjects } from './created-objects.js';
import { excludedRelations } from './excluded-relations.js';
import { NOTHING_LEFT_OUT, type LeftOut } from './left-out-extensions.js';
import { canGiveOwnership } from './ownership-given.js';
import { readAgain } from './read-again.js';

/** Something in which green's schema is not blue's. */
export interface CatalogDifference {
  /**
   * `error`: rows or the application would meet it. `warning`: somebody should look; between two versions the same SQL
   * may be written in two ways, and what is only on green may have been put there on purpose.
   */
  readonly severity: 'error' | 'warning';
  /** `table`, `column`, `index`, `constraint`, `trigger`, `function` ... */
  readonly kind: string;
  readonly object: string;
  /** What is different, for people. */
  readonly difference: string;
}

/**
 * Compares both catalogs after the schema has been copied: tables, columns, keys, indexes, constraints, triggers,
 * views, functions, types, sequences, policies, comments. What stays on blue and what the plan's steps add to green is no
 * difference; owners and grants are compared where they could be copied. Empty when all is as it should be.
 *
 * @param leftOut extensions that have stayed on blue, which the preflight has told. Default: none
 */
export async function compareCatalogs(
  blue: Session,
  green: Session,
  plan: Pick<Plan, 'tables' | 'migrations'>,
  leftOut: LeftOut = NOTHING_LEFT_OUT,
): Promise<CatalogDifference[]> {
  const sameVersion = (await majorVersion(blue)) === (await majorVersion(green));
  const ownersAndGrants = await canGiveOwnership(blue, green, plan.tables);
  const [onBlue = [], onGreen = []] = await Promise.all(
    [blue, green].map((session) => allQuoted(session, () => describeAll(session))),
  );
  const excluded = new Set((await excludedRelations(blue, plan.tables)).map(formatTableName));
  const wanted = new Map(
    onBlue.filter(({ relation, object }) => !excluded.has(relation ?? object)).map((object) => [keyOf(object), object]),
  );
  for (const name of leftOut.extensions) wanted.delete(keyOf({ kind: 'extension', object: formatName(name) }));
  for (const name of leftOut.schemas) wanted.delete(keyOf({ kind: 'schema', object: formatName(name) }));
  const found = new Map(onGreen.map((object) => [keyOf(object), object]));
  const added = objectsOfPlan(plan.migrations);
  const parents = await readParents(green);
  const isAmong = (keys: ReadonlySet<string>, object: DescribedObject): boolean =>
    [object, ...inParents(object, parents)].some((each) => keys.has(keyOf(each)));
  const isAdded = (object: DescribedObject): boolean => isAmong(added, object);
  const notNull = notNullOfPlan(plan.migrations);
  const missing = [...wanted].flatMap(([key, object]) => (found.has(key) ? [] : [missingOnGreen(object)]));
  const extra = [...found].flatMap(([key, object]) =>
    wanted.has(key) || isAdded(object) || isMadeByItself(object) ? [] : [onlyOnGreen(object)],
  );
  const changed: CatalogDifference[] = [];
  for (const [key, asOnBlue] of wanted) {
    const other = found.get(key);
    if (other === undefined) continue;
    const object = isAdded(asOnBlue) && isValid(other) ? validated(asOnBlue) : asOnBlue;
    const facts = differentFacts(object, other, ownersAndGrants);
    changed.push(
      ...(isAmong(notNull, object)
        ? facts.filter(({ difference }) => !difference.startsWith('not null is true'))
        : facts),
      ...(await differentTexts(green, object, other, sameVersion)),
    );
  }
  return [...missing, ...(await missingMembers(blue, green, plan.tables, leftOut)), ...changed, ...extra];
}

/** Tables of extensions, which are in no dump: CREATE EXTENSION makes none that was added to one (ALTER EXTENSION ... ADD). */
async function missingMembers(
  blue: Session,
  green: Session,
  tables: TablePatterns,
  leftOut: LeftOut,
): Promise<CatalogDifference[]> {
  const { rows } = await blue.query<{ schema: string; name: string; extension: string }>(
    `SELECT n.nspname AS schema, c.relname AS name, x.extname AS extension
       FROM pg_depend d
       JOIN pg_extension x ON x.oid = d.refobjid
       JOIN pg_class c ON c.oid = d.objid AND c.relkind IN ('r', 'p')
       JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
        AND ${USER_SCHEMA} AND x.extname <> ALL ($1::text[]) ORDER BY 1, 2`,
    [leftOut.extensions],
  );
  const isNamed = tableFilter(tables);
  const members = rows.filter(isNamed);
  const { rows: absent } = await green.query<{ i: number }>(
    // The catalog is asked: to_regclass() fails in a schema of an extension that green's user may not use.
    `SELECT m.i::int - 1 AS i FROM unnest($1::name[], $2::name[]) WITH ORDINALITY AS m (schema, name, i)
      WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                         WHERE n.nspname = m.schema AND c.relname = m.name) ORDER BY 1`,
    [members.map(({ schema }) => schema), members.map(({ name }) => name)],
  );
  return absent.flatMap(({ i }) => {
    const member = members[i];
    return member === undefined ? [] : [missingMember(member, member.extension)];
  });
}

function missingMember(name: TableName, extension: string): CatalogDifference {
  return {
    severity: 'warning',
    kind: 'table',
    object: formatTableName(name),
    difference: `belongs to the extension ${extension} on blue, and is not on green: it and its rows are not moved, as one that was added to the extension (ALTER EXTENSION ... DROP TABLE on blue before a run makes it an ordinary table, which moves)`,
  };
}

/** The described objects, and all others by their names alone: operators, casts, text search, servers. */
async function describeAll(session: Session): Promise<DescribedObject[]> {
  const described = await describeCatalog(session);
  const others = await readUserObjects(session);
  return [
    ...described,
    ...others
      .filter(({ type }) => !DESCRIBED_TYPES.has(type))
      .map(({ type, identity }) => ({
        ...{ kind: type, object: withoutNeedlessQuotes(identity) },
        ...{ relation: null, facts: {}, text: {} },
      })),
  ];
}

/** What pg_identify_object calls the kinds that are described in full. */
const DESCRIBED_TYPES = new Set([
  'table',
  'foreign table',
  'view',
  'materialized view',
  'sequence',
  'schema',
  'function',
  'procedure',
  'aggregate',
  'type',
  'extension',
  'event trigger',
]);

function keyOf({ kind, object }: Pick<DescribedObject, 'kind' | 'object'>): string {
  return `${kind} ${object}`;
}

/** By the name of a partition, of its indexes, or of a child: the names of all that it comes from. */
type Parents = ReadonlyMap<string, readonly string[]>;

async function readParents(session: Session): Promise<Parents> {
  const { rows } = await session.query<{ child: string; parents: string[] }>(
    `WITH RECURSIVE line AS (
       SELECT inhrelid AS child, inhparent AS parent FROM pg_inherits
        UNION
       SELECT line.child, i.inhparent FROM line JOIN pg_inherits i ON i.inhrelid = line.parent)
     SELECT ${relationOf('child')} AS child, array_agg(${relationOf('parent')}) AS parents FROM line GROUP BY line.child`,
  );
  return new Map(rows.map(({ child, parents }) => [child, parents]));
}

/** The same column or constraint of the tables from which its table has it, and the indexes that an index is a part of. */
function inParents({ kind, object, relation }: DescribedObject, parents: Parents): { kind: string; object: string }[] {
  if (kind === 'index') return (parents.get(object) ?? []).map((parent) => ({ kind, object: parent }));
  if (relation === null || !object.startsWith(`${relation}.`)) return [];
  const rest = object.slice(relation.length);
  return (parents.get(relation) ?? []).map((parent) => ({ kind, object: parent + rest }));
}

function missingOnGreen({ kind, object }: DescribedObject): CatalogDifference {
  return { severity: 'error', kind, object, difference: 'is on blue and not on green' };
}

function onlyOnGreen({ kind, object }: DescribedObject): CatalogDifference {
  return { severity: 'warning', kind, object, difference: 'is on green and not on blue' };
}

/** A constraint that has been validated. */
function isValid({ kind, facts }: DescribedObject): boolean {
  return kind === 'constraint' && facts.validated === true;
}

/** A constraint of blue as it is on green when a step of the plan has made or validated it. */
function validated(constraint: DescribedObject): DescribedObject {
  const definition = withoutNotValid(constraint.text.definition ?? '');
  return { ...constraint, facts: { ...constraint.facts, validated: true }, text: { definition } };
}

/** `public` is in every new database, and whoever made green may have given it to somebody; blue may have dropped it. */
function isMadeByItself({ kind, object }: DescribedObject): boolean {
  return kind === 'schema' && object === 'public';
}

const OWNERSHIP = new Set(['owner', 'grants']);

/**
 * What no copy can mend: who owns public, and that a dump attaches the partitions of a partition before that one has its
 * identity, so rows that are inserted right into them, and not through their parent, must bring their own value.
 */
function isOnlyToldOf(object: DescribedObject, fact: string): boolean {
  return fact === PARTITION_IDENTITY || (isMadeByItself(object) && OWNERSHIP.has(fact));
}

/** Green's own default privileges grant more on what is made there: the application misses nothing. */
function isMoreGranted(blue: DescribedObject, green: DescribedObject, fact: string): boolean {
  if (fact !== 'grants' || blue.kind === 'column') return false;
  const there = new Set(entriesOf(green.facts[fact]));
  return entriesOf(blue.facts[fact]).every((entry) => there.has(entry) || there.has(`${entry} grantable`));
}

/** An empty list is null. */
function entriesOf(grants: unknown): readonly string[] {
  return Array.isArray(grants) ? grants.map(String) : [];
}

function differentFacts(blue: DescribedObject, green: DescribedObject, ownersAndGrants: boolean): CatalogDifference[] {
  const { kind, object } = blue;
  return Object.keys(blue.facts)
    .filter((name) => ownersAndGrants || !OWNERSHIP.has(name))
    .filter((name) => name !== PARTITION_IDENTITY || (blue.facts[name] !== null && green.facts[name] !== null))
    .filter((name) => JSON.stringify(blue.facts[name]) !== JSON.stringify(green.facts[name]))
    .map((name): CatalogDifference => {
      const [is, was] = [shown(green.facts[name]), shown(blue.facts[name])];
      return {
        severity: isOnlyToldOf(blue, name) || isMoreGranted(blue, green, name) ? 'warning' : 'error',
        kind,
        object,
        difference: `${name} is ${is} on green and ${was} on blue`,
      };
    });
}

/**
 * A server may write in another way what it has read from its own words (see read-again.ts): only what green makes of
 * blue's text can be another one for certain, and only where both are of one version.
 */
async function differentTexts(
  session: Session,
  blue: DescribedObject,
  green: DescribedObject,
  sameVersion: boolean,
): Promise<CatalogDifference[]> {
  const { kind, object } = blue;
  const different: CatalogDifference[] = [];
  for (const name of Object.keys(blue.text)) {
    const [was, is] = [blue.text[name] ?? null, green.text[name] ?? null];
    if (bare(was) === bare(is)) continue;
    const read = was === null || is === null ? was : await readAgain(session, blue, name);
    if (read !== undefined && bare(read) === bare(is)) continue;
    const severity = sameVersion && read !== undefined ? 'error' : 'warning';
    different.push({
      severity,
      kind,
      object,
      difference: `${name} is ${shown(is)} on green and ${shown(was)} on blue`,
    });
  }
  return different;
}

/**
 * Without what a server adds or leaves out when it writes SQL that it has read: spaces, parentheses, the names of tables
 * before columns, the names of results.
 */
function bare(sql: string | null | undefined): string | null {
  if (sql === null || sql === undefined) return null;
  return sql
    .replaceAll(/("[^"]*"|\b[a-z_]\w*)\./g, '')
    .replaceAll(/ AS ("[^"]*"|\w+)/g, '')
    .replaceAll(/[\s()]+/g, '');
}

function shown(value: unknown): string {
  if (value === null || value === undefined || value === '') return 'missing';
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return text.length > 200 ? `${text.slice(0, 200)}...` : text;
}

/** What the plan's steps put on green, by the keys of the comparison. */
function objectsOfPlan(migrations: readonly Migration[]): ReadonlySet<string> {
  const keys = migrations.flatMap((migration): string[] => {
    if ('addColumn' in migration) return [columnKey(migration.addColumn.table, migration.addColumn.column)];
    if ('changeType' in migration) return [columnKey(migration.changeType.table, migration.changeType.newColumn)];
    if ('createIndex' in migration) {
      const { schema } = parseTableName(migration.createIndex.table);
      return [`index ${formatTableName({ schema, name: migration.createIndex.name })}`];
    }
    if ('addConstraint' in migration) {
      const { table, name } = migration.addConstraint;
      const { schema } = parseTableName(table);
      return [`constraint ${part(table, name)}`, `index ${formatTableName({ schema, name })}`];
    }
    return [];
  });
  return new Set(keys);
}

/** Columns of blue that the plan's steps make NOT NULL on green, by the keys of the comparison. */
function notNullOfPlan(migrations: readonly Migration[]): ReadonlySet<string> {
  const keys = migrations.flatMap((migration): string[] => {
    if ('setNotNull' in migration) return [columnKey(migration.setNotNull.table, migration.setNotNull.column)];
    if (!('addConstraint' in migration)) return [];
    const { table, primaryKey } = migration.addConstraint;
    return (primaryKey ?? []).map((column) => columnKey(table, column));
  });
  return new Set(keys);
}

function columnKey(table: string, column: string): string {
  return `column ${part(table, column)}`;
}

function part(table: string, name: string): string {
  const parsed = parseTableName(table);
  return `${formatTableName(parsed)}.${formatName(name)}`;
}
