import { grouped } from './grouped.js';
import { ident } from './identifier.js';
import { SHOWS_ALL } from './row-policies.js';
import { RELATION, USER_RELATION } from './schema-copy/catalog-description.js';
import type { Session } from './session.js';

/*
 * Policies for rows are copied with their tables. To whom they apply is a matter of roles, which are in no dump: BYPASSRLS,
 * who owns a table, who is a member of a group that a policy names. Who gets fewer rows gets no error.
 */

/** Rows that policies show a role on blue, and may hide from it on green. */
export interface HiddenRows {
  /** Qualified and quoted. */
  readonly relations: readonly string[];
  /** It passes by BYPASSRLS on blue. */
  readonly bypass: boolean;
  /** Roles that policies name, or that own the tables, whose rights it has on blue and not on green. */
  readonly groups: readonly string[];
}

/** Tables that are alike in all that decides to whom their policies apply, whatever these are called. */
interface Secured {
  readonly relations: readonly Relation[];
  readonly policies: readonly Policy[];
  readonly readers: readonly Reader[];
}

interface Relation {
  /** Qualified and quoted. */
  readonly name: string;
  /** The names of the policies, in their order. */
  readonly policies: readonly string[];
}

interface Policy {
  readonly restrictive: boolean;
  /** Where it applies, and none is restrictive. */
  readonly showsAll: boolean;
}

/** A role that may use them. */
interface Reader {
  readonly role: string;
  readonly bypass: boolean;
  readonly owns: boolean;
  /** Those that apply to it, by their place. */
  readonly policies: readonly number[];
  /** The roles by which they do, or by which it is an owner. */
  readonly groups: readonly string[];
}

/** Tables that are alike on both sides. */
interface Pair {
  readonly before: Secured;
  readonly now: Secured;
  /** The place on green of each policy of blue; -1 where green has none of its name. */
  readonly places: readonly number[];
}

/** Of these roles, and of tables that have policies on both sides. */
export async function hiddenRows(
  blue: Session,
  green: Session,
  roles: readonly string[],
): Promise<ReadonlyMap<string, HiddenRows>> {
  const [there, here] = await Promise.all([readSecured(blue, roles), readSecured(green, roles)]);
  const hidden = new Map<string, HiddenRows>();
  for (const [pair, relations] of pairsOf(there, here)) {
    for (const [was, is] of inBoth(pair)) {
      if (!loses(pair, was, is)) continue;
      const known = hidden.get(was.role) ?? { relations: [], bypass: false, groups: [] };
      const groups = was.groups.filter((one) => one !== was.role && !is.groups.includes(one));
      hidden.set(was.role, {
        relations: known.relations.concat(relations),
        bypass: known.bypass || was.bypass,
        groups: [...new Set([...known.groups, ...(was.bypass ? [] : groups)])],
      });
    }
  }
  return hidden;
}

/** With the names of the tables. */
function pairsOf(there: readonly Secured[], here: readonly Secured[]): (readonly [Pair, string[]])[] {
  const onGreen = new Map(here.flatMap((now) => now.relations.map((one) => [one.name, { now, one }] as const)));
  return there.flatMap((before) => {
    const both = before.relations.flatMap(({ name, policies }) => {
      const found = onGreen.get(name);
      if (found === undefined) return [];
      const places = policies.map((policy) => found.one.policies.indexOf(policy));
      return [{ name, pair: { before, now: found.now, places } }];
    });
    return grouped(both, ({ pair }) => pair.now).flatMap(([, same]) =>
      grouped(same, ({ pair }) => pair.places.join()).map(
        ([{ pair }, alike]) => [pair, alike.map(({ name }) => name)] as const,
      ),
    );
  });
}

/** Who may not use them on green at all lacks a right, which is told as such. */
function inBoth({ before, now }: Pair): (readonly [Reader, Reader])[] {
  const there = new Map(now.readers.map((reader) => [reader.role, reader]));
  return before.readers.flatMap((was) => {
    const is = there.get(was.role);
    return is === undefined ? [] : [[was, is] as const];
  });
}

/** A policy that green lacks, or has besides, is a difference of the schemas, and may be meant. */
function loses({ before, now, places }: Pair, was: Reader, is: Reader): boolean {
  if (seesAll(now, is)) return false;
  if (seesAll(before, was)) return true;
  return places.some((place, of) => {
    if (place < 0) return false;
    const [applied, applies] = [was.policies.includes(of), is.policies.includes(place)];
    if (applied && !applies && before.policies[of]?.restrictive === false) return true;
    return applies && !applied && now.policies[place]?.restrictive === true;
  });
}

/** No policy hides a row from it. */
function seesAll({ policies }: Secured, { bypass, owns, policies: applying }: Reader): boolean {
  if (bypass || owns) return true;
  return policies.every(({ restrictive }) => !restrictive) && applying.some((of) => policies[of]?.showsAll === true);
}

async function readSecured(session: Session, roles: readonly string[]): Promise<Secured[]> {
  const { rows } = await session.query<Secured>(SECURED, [roles]);
  return rows;
}

/** Whether it has the rights of the role with that oid, of which 0 is everybody. */
const APPLIES = `CASE named WHEN 0 THEN true ELSE pg_has_role(role.oid, named, 'USAGE') END`;
const IS_OWNER = `(NOT a.relforcerowsecurity AND pg_has_role(role.oid, a.relowner, 'USAGE'))`;

/**
 * Partitions are left to their parents. Tables that are alike are judged once, by the oldest; what does not depend on the
 * role is read once for each policy, since thousands of tables may be used by hundreds of roles.
 */
const SECURED = `
  WITH role AS MATERIALIZED (
    SELECT oid, rolname::text AS name, rolbypassrls OR rolsuper AS bypass FROM pg_roles WHERE rolname = ANY ($1)),
  policies AS MATERIALIZED (
    SELECT relid, array_agg(name ORDER BY kind, name) AS names, '[' || string_agg(kind, ',' ORDER BY kind, name) || ']' AS kinds
      FROM (SELECT p.polrelid AS relid, p.polname::text AS name,
                   json_build_object('restrictive', NOT p.polpermissive, 'showsAll', ${SHOWS_ALL}, 'roles', p.polroles::text)::text AS kind
              FROM pg_policy p) policy
     GROUP BY 1),
  alike AS MATERIALIZED (
    SELECT min(c.oid) AS oid,
           json_agg(json_build_object('name', ${RELATION}, 'policies', coalesce(known.names, '{}')) ORDER BY n.nspname, c.relname) AS relations,
           coalesce(known.kinds, '[]') AS kinds, c.relowner, c.relforcerowsecurity, c.relacl::text,
           (SELECT string_agg(a.attacl::text, ' ' ORDER BY a.attnum) FROM pg_attribute a
             WHERE a.attrelid = c.oid AND NOT a.attisdropped)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN policies known ON known.relid = c.oid
     WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND NOT c.relispartition AND ${USER_RELATION}
     GROUP BY 3, 4, 5, 6, 7)
  SELECT a.relations, a.kinds::json AS policies,
         (SELECT coalesce(json_agg(json_build_object(
                   'role', role.name, 'bypass', role.bypass, 'owns', ${IS_OWNER},
                   'policies', ARRAY(SELECT array_position(known.names, p.polname::text) - 1 FROM pg_policy p
                                      WHERE p.polrelid = a.oid AND EXISTS (SELECT FROM unnest(p.polroles) named WHERE ${APPLIES})),
                   'groups', ARRAY(SELECT pg_get_userbyid(named) FROM pg_policy p, unnest(p.polroles) named
                                    WHERE p.polrelid = a.oid AND named <> 0 AND ${APPLIES}
                                    UNION SELECT pg_get_userbyid(a.relowner) WHERE ${IS_OWNER}))), '[]')
            FROM role
           WHERE has_table_privilege(role.oid, a.oid, 'SELECT, INSERT, UPDATE, DELETE')
              OR has_any_column_privilege(role.oid, a.oid, 'SELECT, INSERT, UPDATE')) AS readers
    FROM alike a LEFT JOIN policies known ON known.relid = a.oid`;

/** For people, with what gives the rows back. */
export function describeHidden(who: string, role: string, hidden: HiddenRows, named: number): string {
  const { relations, bypass, groups } = hidden;
  const more = relations.length > named ? ` and ${relations.length - named} more` : '';
  const grants = groups.map((group) => `GRANT ${ident(group)} TO ${ident(role)}`);
  const mend = [...(bypass ? [`ALTER ROLE ${ident(role)} BYPASSRLS`] : []), ...grants];
  const owner = 'let the tables on green belong to whom they belong on blue';
  return `${who}, and policies for rows may hide from it on green what it sees on blue, without an error (${relations.slice(0, named).join(', ')}${more}): ${mend.length === 0 ? owner : mend.join('; ')}`;
}
