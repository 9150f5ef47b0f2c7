import type { TablePatterns } from '../catalog-pattern.js';
import { USER_SCHEMA } from '../catalog.js';
import type { Session } from '../session.js';
import { notOfExtension } from './catalog-description.js';
import { excludedRelations, notExcluded } from './excluded-relations.js';

/*
 * A managed service puts extensions of its own into its databases, which no other server offers and only the service can
 * drop; and a version of PostgreSQL does away with some. One on which nothing that is copied depends stays on blue, with
 * all that belongs to it. What the bodies of functions call is in no catalog, and not seen.
 */

/** What a schema copy leaves on blue of extensions. Goes into verdigris.progress. */
export interface LeftOut {
  readonly extensions: readonly string[];
  /** Schemas in which there is nothing but what belongs to them. */
  readonly schemas: readonly string[];
}

export const NOTHING_LEFT_OUT: LeftOut = { extensions: [], schemas: [] };

/** An extension of blue that green's server does not offer. */
export interface UnofferedExtension {
  readonly name: string;
  /**
   * What of the copy depends on it: `table column public.orders.tags`, `extension earthdistance`. Empty: it is left out.
   */
  readonly neededBy: readonly string[];
}

/** What the copy leaves out: extensions that green's server does not offer and nothing depends on. */
export async function readLeftOut(blue: Session, green: Session, tables: TablePatterns): Promise<LeftOut> {
  return leftOutAmong(blue, await readUnofferedExtensions(blue, green, tables));
}

/** The same for whoever has asked already which extensions green's server does not offer. */
export async function leftOutAmong(blue: Session, unoffered: readonly UnofferedExtension[]): Promise<LeftOut> {
  const extensions = unoffered.filter(({ neededBy }) => neededBy.length === 0).map(({ name }) => name);
  if (extensions.length === 0) return NOTHING_LEFT_OUT;
  const { rows } = await blue.query<{ schema: string }>(SCHEMAS, [extensions]);
  return { extensions, schemas: rows.map(({ schema }) => schema) };
}

/** Every extension of blue that green has not and can't make, by name. */
export async function readUnofferedExtensions(
  blue: Session,
  green: Session,
  tables: TablePatterns,
): Promise<UnofferedExtension[]> {
  const { rows: used } = await blue.query<{ name: string }>(
    `SELECT extname::text AS name FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1`,
  );
  const { rows: unoffered } = await green.query<{ name: string }>(
    `SELECT name FROM unnest($1::text[]) AS used (name)
      WHERE NOT EXISTS (SELECT FROM pg_available_extensions a WHERE a.name = used.name)
        AND NOT EXISTS (SELECT FROM pg_extension e WHERE e.extname = used.name)`,
    [used.map(({ name }) => name)],
  );
  if (unoffered.length === 0) return [];
  const names = unoffered.map(({ name }) => name);
  const { rows: dependents } = await blue.query<Dependent>(DEPENDENTS, [
    names,
    JSON.stringify(await excludedRelations(blue, tables)),
  ]);
  const left = leftOutOf(names, dependents);
  return names.map((name) => ({
    name,
    neededBy: left.has(name)
      ? []
      : dependents.filter((one) => one.extension === name && isCopied(one, left)).map(shown),
  }));
}

/** Something that depends on an extension, or on what belongs to it, and belongs to another one or to none. */
interface Dependent {
  readonly extension: string;
  /** To which extension it belongs; null for none. */
  readonly of: string | null;
  /** As pg_identify_object names it; null for what belongs to an extension. */
  readonly object: string | null;
}

/** One that is needed may need others, and these others. */
function leftOutOf(names: readonly string[], dependents: readonly Dependent[]): ReadonlySet<string> {
  const left = new Set(names);
  for (;;) {
    const needed = dependents.filter((one) => left.has(one.extension) && isCopied(one, left));
    if (needed.length === 0) return left;
    for (const { extension } of needed) left.delete(extension);
  }
}

function isCopied({ of }: Dependent, left: ReadonlySet<string>): boolean {
  return of === null || !left.has(of);
}

function shown({ of, object }: Dependent): string {
  return object ?? `extension ${of ?? ''}`;
}

/**
 * Which objects belong to which extension: its members, what is made with them (row types, rules of views), and what a dump
 * leaves out together with a table that is a member. Operators that were put into a family belong to the family.
 *
 * Source: pg_depend in the documentation; checkExtensionMembership in pg_dump.c.
 */
const PARTS = `
  part (extension, classid, objid) AS (
    SELECT extname::text, 'pg_extension'::regclass::oid, oid FROM pg_extension
     UNION
    SELECT p.extension, d.classid, d.objid
      FROM part p JOIN pg_depend d ON d.refclassid = p.classid AND d.refobjid = p.objid
     WHERE d.deptype IN ('e', 'i')
        OR d.deptype = 'a' AND CASE d.classid
             WHEN 'pg_class'::regclass THEN (SELECT relkind FROM pg_class WHERE oid = d.objid) IN ('i', 'I')
             WHEN 'pg_amop'::regclass THEN d.refclassid = 'pg_opfamily'::regclass
             WHEN 'pg_amproc'::regclass THEN d.refclassid = 'pg_opfamily'::regclass
             ELSE d.classid IN ('pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_trigger'::regclass,
                                'pg_rewrite'::regclass, 'pg_policy'::regclass) END)`;

/** The relation that a dependent is or belongs to: tables that the plan leaves out and temporary ones are not copied. */
const RELATION_OF_DEPENDENT = `
  CASE d.classid
    WHEN 'pg_class'::regclass THEN coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = d.objid), d.objid)
    WHEN 'pg_type'::regclass THEN (SELECT typrelid FROM pg_type WHERE oid = d.objid)
    WHEN 'pg_attrdef'::regclass THEN (SELECT adrelid FROM pg_attrdef WHERE oid = d.objid)
    WHEN 'pg_constraint'::regclass THEN (SELECT conrelid FROM pg_constraint WHERE oid = d.objid)
    WHEN 'pg_trigger'::regclass THEN (SELECT tgrelid FROM pg_trigger WHERE oid = d.objid)
    WHEN 'pg_rewrite'::regclass THEN (SELECT ev_class FROM pg_rewrite WHERE oid = d.objid)
    WHEN 'pg_policy'::regclass THEN (SELECT polrelid FROM pg_policy WHERE oid = d.objid)
    WHEN 'pg_statistic_ext'::regclass THEN (SELECT stxrelid FROM pg_statistic_ext WHERE oid = d.objid) END`;

/** A view depends by its rule. Publications are not copied. */
const DEPENDENTS = `
  WITH RECURSIVE ${PARTS}
  SELECT DISTINCT p.extension, other.extension AS of, CASE WHEN other.extension IS NULL THEN i.type || ' ' || i.identity END AS object
    FROM part p
    JOIN pg_depend d ON d.refclassid = p.classid AND d.refobjid = p.objid
    LEFT JOIN part other ON other.classid = d.classid AND other.objid = d.objid
    LEFT JOIN pg_class c ON c.oid = ${RELATION_OF_DEPENDENT}
    LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (SELECT d.classid = 'pg_rewrite'::regclass AS of_view) rule
    CROSS JOIN LATERAL pg_identify_object(CASE WHEN rule.of_view THEN 'pg_class'::regclass ELSE d.classid END,
                                          CASE WHEN rule.of_view THEN c.oid ELSE d.objid END,
                                          CASE WHEN rule.of_view THEN 0 ELSE d.objsubid END) i
   WHERE p.extension = ANY ($1::text[])
     AND NOT EXISTS (SELECT FROM part own WHERE own.extension = p.extension AND own.classid = d.classid AND own.objid = d.objid)
     AND d.classid NOT IN ('pg_publication_rel'::regclass, 'pg_publication_namespace'::regclass)
     AND c.relpersistence IS DISTINCT FROM 't' AND n.nspname IS DISTINCT FROM 'verdigris' AND ${notExcluded('$2')}
     AND (other.extension IS NOT NULL OR i.identity IS NOT NULL)
   ORDER BY 1, 2, 3`;

/** A schema that is a member goes with its extension; another one where nothing else is in it. */
const SCHEMAS = `
  WITH RECURSIVE ${PARTS}, gone AS (SELECT classid, objid FROM part WHERE extension = ANY ($1::text[]))
  SELECT n.nspname AS schema
    FROM pg_namespace n
   WHERE ('pg_namespace'::regclass, n.oid) IN (SELECT classid, objid FROM gone)
      OR n.nspname <> 'public' AND ${USER_SCHEMA} AND ${notOfExtension('pg_namespace', 'n.oid')}
         AND EXISTS (SELECT FROM pg_extension e WHERE e.extnamespace = n.oid AND e.extname = ANY ($1))
         AND NOT EXISTS (SELECT FROM pg_depend d
                          WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
                            AND (d.classid, d.objid) NOT IN (SELECT classid, objid FROM gone))
   ORDER BY 1`;
