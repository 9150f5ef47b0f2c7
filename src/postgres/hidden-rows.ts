import { grouped } from './grouped.js';
import { ident } from './identifier.js';
import { mayHideRows } from './row-policies.js';
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

/** Tables with policies that are alike in all that decides to whom these apply. */
interface Secured {
  readonly relations: readonly string[];
  readonly policies: readonly string[];
  readonly restrictive: readonly string[];
  readonly readers: readonly Reader[];
}

/** A role that may use them. */
interface Reader {
  readonly role: string;
  readonly bypass: boolean;
  /** No policy hides a row from it. */
  readonly all: boolean;
  /** Those that apply to it. */
  readonly policies: readonly string[];
  /** The roles by which they do, or by which it is an owner. */
  readonly groups: readonly string[];
}

/** Of these roles, and of tables that have policies on both sides. */
export async function hiddenRows(
  blue: Session,
  green: Session,
  roles: readonly string[],
): Promise<ReadonlyMap<string, HiddenRows>> {
  const [there, here] = await Promise.all([readSecured(blue, roles), readSecured(green, roles)]);
  const onGreen = new Map(here.flatMap((one) => one.relations.map((relation) => [relation, one] as const)));
  const hidden = new Map<string, HiddenRows>();
  for (const before of there) {
    const both = before.relations.flatMap((relation) => {
      const now = onGreen.get(relation);
      return now === undefined ? [] : [{ relation, now }];
    });
    for (const [{ now }, same] of grouped(both, (one) => one.now)) {
      for (const [was, is] of inBoth(before, now)) {
        if (!loses(before, was, now, is)) continue;
        const relations = same.map(({ relation }) => relation);
        const known = hidden.get(was.role) ?? { relations: [], bypass: false, groups: [] };
        const groups = was.groups.filter((one) => one !== was.role && !is.groups.includes(one));
        hidden.set(was.role, {
          relations: known.relations.concat(relations),
          bypass: known.bypass || was.bypass,
          groups: [...new Set([...known.groups, ...(was.bypass ? [] : groups)])],
        });
      }
    }
  }
  return hidden;
}

/** Who may not use them on green at all lacks a right, which is told as such. */
function inBoth(before: Secured, now: Secured): (readonly [Reader, Reader])[] {
  const there = new Map(now.readers.map((reader) => [reader.role, reader]));
  return before.readers.flatMap((was) => {
    const is = there.get(was.role);
    return is === undefined ? [] : [[was, is] as const];
  });
}

/** A policy that green lacks, or has besides, is a difference of the schemas, and may be meant. */
function loses(before: Secured, was: Reader, now: Secured, is: Reader): boolean {
  if (is.all) return false;
  if (was.all) return true;
  const shown = was.policies.filter((one) => !before.restrictive.includes(one) && now.policies.includes(one));
  const hiding = is.policies.filter((one) => now.restrictive.includes(one) && before.policies.includes(one));
  return shown.some((one) => !is.policies.includes(one)) || hiding.some((one) => !was.policies.includes(one));
}

async function readSecured(session: Session, roles: readonly string[]): Promise<Secured[]> {
  const { rows } = await session.query<Secured>(SECURED, [roles]);
  return rows;
}

/** Whether it has the rights of the role with that oid, of which 0 is everybody. */
const APPLIES = `CASE named WHEN 0 THEN true ELSE pg_has_role(role.oid, named, 'USAGE') END`;
const IS_OWNER = `(NOT c.relforcerowsecurity AND pg_has_role(role.oid, c.relowner, 'USAGE'))`;

/** Partitions are left to their parents. Tables that are alike are judged once, by the oldest. */
const SECURED = `
  WITH role AS MATERIALIZED (
    SELECT oid, rolname::text AS name, rolbypassrls OR rolsuper AS bypass FROM pg_roles WHERE rolname = ANY ($1)),
  alike AS MATERIALIZED (
    SELECT min(c.oid) AS oid, array_agg(${RELATION} ORDER BY n.nspname, c.relname) AS relations,
           c.relowner, c.relforcerowsecurity, c.relacl::text,
           (SELECT string_agg(a.attacl::text, ' ' ORDER BY a.attnum) FROM pg_attribute a
             WHERE a.attrelid = c.oid AND NOT a.attisdropped),
           (SELECT json_agg(json_build_array(p.polname, p.polcmd, p.polpermissive, p.polroles::text,
                                             coalesce(pg_get_expr(p.polqual, p.polrelid) = 'true', false),
                                             coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true') = 'true')
                            ORDER BY p.polname)::text FROM pg_policy p WHERE p.polrelid = c.oid)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND NOT c.relispartition AND ${USER_RELATION}
     GROUP BY 3, 4, 5, 6, 7)
  SELECT a.relations, ARRAY(SELECT p.polname::text FROM pg_policy p WHERE p.polrelid = c.oid) AS policies,
         ARRAY(SELECT p.polname::text FROM pg_policy p WHERE p.polrelid = c.oid AND NOT p.polpermissive) AS restrictive,
         (SELECT coalesce(json_agg(json_build_object(
                   'role', role.name, 'bypass', role.bypass,
                   'all', role.bypass OR ${IS_OWNER} OR NOT ${mayHideRows('role.oid')},
                   'policies', ARRAY(SELECT p.polname FROM pg_policy p
                                      WHERE p.polrelid = c.oid AND EXISTS (SELECT FROM unnest(p.polroles) named WHERE ${APPLIES})),
                   'groups', ARRAY(SELECT pg_get_userbyid(named) FROM pg_policy p, unnest(p.polroles) named
                                    WHERE p.polrelid = c.oid AND named <> 0 AND ${APPLIES}
                                    UNION SELECT pg_get_userbyid(c.relowner) WHERE ${IS_OWNER}))), '[]')
            FROM role
           WHERE has_table_privilege(role.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE')
              OR has_any_column_privilege(role.oid, c.oid, 'SELECT, INSERT, UPDATE')) AS readers
    FROM alike a JOIN pg_class c ON c.oid = a.oid`;

/** For people, with what gives the rows back. */
export function describeHidden(who: string, role: string, hidden: HiddenRows, named: number): string {
  const { relations, bypass, groups } = hidden;
  const more = relations.length > named ? ` and ${relations.length - named} more` : '';
  const grants = groups.map((group) => `GRANT ${ident(group)} TO ${ident(role)}`);
  const mend = [...(bypass ? [`ALTER ROLE ${ident(role)} BYPASSRLS`] : []), ...grants];
  const owner = 'let the tables on green belong to whom they belong on blue';
  return `${who}, and policies for rows may hide from it on green what it sees on blue, without an error (${relations.slice(0, named).join(', ')}${more}): ${mend.length === 0 ? owner : mend.join('; ')}`;
}
