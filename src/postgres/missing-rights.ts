import { connectedRoles, rolesOf, settableRoles, type SettableRole } from './application-roles.js';
import { USER_SCHEMA } from './catalog.js';
import { grouped } from './grouped.js';
import { describeHidden, hiddenRows, type HiddenRows } from './hidden-rows.js';
import { ident } from './identifier.js';
import { describeMemberships, missingMemberships, type Membership } from './missing-memberships.js';
import { mayHideRows } from './row-policies.js';
import { RELATION, USER_RELATION } from './schema-copy/catalog-description.js';
import type { Session } from './session.js';

/*
 * GRANT is no DDL that a run notices, and a copy that no superuser makes has no grants at all. Whoever is connected to blue
 * is the application: what it may do there it must be allowed to do on green before its reads and writes go there, by
 * itself and as any role that it becomes by SET ROLE.
 */

/** What a role may do on blue and may not do on green. */
export interface MissingRights {
  readonly role: string;
  /** Who is connected and may become it by SET ROLE; null for a role that is connected itself. */
  readonly setBy: string | null;
  /** It is connected, and green has no such role that may log in. */
  readonly absent: boolean;
  readonly rights: readonly Right[];
  /** What it owns on blue, by itself or as a member of the owner, and not on green. */
  readonly owned: readonly Owned[];
  /** Roles that it can become on blue and not on green. */
  readonly memberships: readonly Membership[];
  readonly hidden: HiddenRows | null;
}

export interface Owned {
  /** Qualified and quoted. */
  readonly relation: string;
  /** On green. */
  readonly owner: string;
  readonly ownerIsSuperuser: boolean;
  /** Policies for rows, by which an owner passes, would apply to the role on green, and may hide rows. */
  readonly isRestricted: boolean;
}

export interface Right {
  /** As SQL names it after ON on green: `TABLE public.orders`, `SEQUENCE ...`, `SCHEMA ...`, `DATABASE ...`. */
  readonly on: string;
  readonly privileges: readonly string[];
}

/** Roles that are set are as many as tenants where each has one, and then alike: the rights of so many are compared. */
const SETTABLE_ASKED = 100;

/**
 * Of the roles that are connected to blue now, and of those that they can become. Objects that are on one side only are none
 * of its business.
 */
export async function missingRights(blue: Session, green: Session): Promise<MissingRights[]> {
  const connected = await connectedRoles(blue);
  if (connected.length === 0) return [];
  const all = await settableRoles(blue);
  const logins = new Set(connected);
  const there = await rolesOf(green, [...connected, ...all.map(({ role }) => role)]);
  const asked = connected.filter((role) => there.get(role)?.login === true);
  const set = all.filter(({ role }) => there.has(role) && !logins.has(role)).slice(0, SETTABLE_ASKED);
  const both = [...asked, ...set.map(({ role }) => role)];
  const [rights, owned] = [await rightsByRole(blue, green, both), await ownedByRole(blue, green, asked)];
  const [memberships, hidden] = [await missingMemberships(green, all, asked), await hiddenRows(blue, green, both)];
  return [
    ...connected.map((role): MissingRights => {
      const itself = { ...NOTHING, role };
      if (there.get(role)?.login !== true) return { ...itself, absent: true };
      const isTold = new Set((owned.get(role) ?? []).flatMap((one) => (one.isRestricted ? [one.relation] : [])));
      return {
        ...itself,
        rights: rights.get(role) ?? [],
        owned: owned.get(role) ?? [],
        memberships: memberships.get(role) ?? [],
        hidden: without(isTold, hidden.get(role)),
      };
    }),
    ...set.map(({ role, by, onlyBySet }: SettableRole): MissingRights => {
      const [setBy = by[0] ?? null] = onlyBySet;
      // What is inherited is compared as what its members may do.
      const mayDo = onlyBySet.length === 0 ? [] : (rights.get(role) ?? []).flatMap(withoutConnect);
      return { ...NOTHING, role, setBy, rights: mayDo, hidden: hidden.get(role) ?? null };
    }),
  ].filter(isAnything);
}

const NOTHING = {
  ...{ setBy: null, absent: false },
  ...{ rights: [], owned: [], memberships: [], hidden: null },
} as const;

/** What is told of an owner is not told twice. */
function without(told: ReadonlySet<string>, hidden: HiddenRows | undefined): HiddenRows | null {
  const relations = hidden?.relations.filter((one) => !told.has(one)) ?? [];
  return hidden === undefined || relations.length === 0 ? null : { ...hidden, relations };
}

/** Nobody connects as a role that is set. */
function withoutConnect({ on, privileges }: Right): Right[] {
  const others = privileges.filter((one) => one !== 'CONNECT');
  return others.length === 0 ? [] : [{ on, privileges: others }];
}

function isAnything({ absent, rights, owned, memberships, hidden }: MissingRights): boolean {
  return absent || rights.length > 0 || owned.length > 0 || memberships.length > 0 || hidden !== null;
}

/**
 * What of it the application would meet with its first requests: an error, or rows that are missing. What it can't make,
 * change or refresh keeps no writes on blue: whoever runs green may mean it so.
 */
export function inTheWay(missing: readonly MissingRights[]): MissingRights[] {
  return missing
    .map(({ rights, owned, ...role }) => ({
      ...role,
      rights: rights
        .map(({ on, privileges }) => ({ on, privileges: privileges.filter((one) => one !== 'CREATE') }))
        .filter(({ privileges }) => privileges.length > 0),
      owned: owned.filter(({ isRestricted }) => isRestricted),
    }))
    .filter(isAnything);
}

/** A right on all columns has that on some of them. */
function covers(privileges: readonly string[], wanted: string): boolean {
  return privileges.includes(wanted) || privileges.some((one) => wanted === ofSomeColumns(one));
}

function ofSomeColumns(privilege: string): string {
  return `${privilege} (of some columns)`;
}

/*
 * Roles times objects may be millions. But who may do what is the same on most objects: what two have in common (their owner
 * and their lists of grants) is judged once. So it grows with the objects, and with how many ways there are to grant.
 */

/** Objects on which every role has the same rights. */
interface Alike {
  /** The same on both sides, whose databases may have two names. */
  readonly objects: readonly string[];
  /** The same as SQL names them after ON. */
  readonly on: readonly string[];
  readonly holders: readonly Holder[];
}

/** A role that may do anything with them. */
interface Holder {
  readonly role: string;
  /** All that it may do, in whichever way. */
  readonly has: readonly string[];
  /** What of it the role must have on the other side, too. */
  readonly needs: readonly string[];
}

/** What is missing on green, by role. */
async function rightsByRole(
  blue: Session,
  green: Session,
  roles: readonly string[],
): Promise<ReadonlyMap<string, readonly Right[]>> {
  const [there, here] = await Promise.all([readRights(blue, roles), readRights(green, roles)]);
  const onGreen = new Map(
    here.flatMap((alike) => {
      const has = new Map(alike.holders.map((holder) => [holder.role, holder.has]));
      return alike.objects.map((object, i) => [object, { alike, has, on: alike.on[i] ?? object }] as const);
    }),
  );
  const missing = new Map<string, Right[]>();
  for (const { objects, holders } of inOrder(there, (alike) => alike.objects)) {
    if (holders.length === 0) continue;
    const both = objects.flatMap((object) => onGreen.get(object) ?? []);
    for (const [{ has }, same] of grouped(both, ({ alike }) => alike)) {
      const rights = new Map<string, Right[]>();
      for (const { role, needs } of holders) {
        const privileges = needs.filter((one) => !covers(has.get(role) ?? [], one));
        if (privileges.length === 0) continue;
        const known = rights.get(privileges.join()) ?? same.map(({ on }) => ({ on, privileges }));
        rights.set(privileges.join(), known);
        add(missing, role, known);
      }
    }
  }
  return missing;
}

/** Groups, whose names are in order, in the order of their first ones. */
function inOrder<T>(groups: readonly T[], namesOf: (group: T) => readonly string[]): T[] {
  const first = (group: T): string => namesOf(group)[0] ?? '';
  return groups.toSorted((one, other) => (first(one) < first(other) ? -1 : 1));
}

/** Not by spreading: there may be more of them than a call takes. */
function add<T>(lists: Map<string, T[]>, role: string, more: readonly T[]): void {
  const list = lists.get(role) ?? [];
  for (const one of more) list.push(one);
  lists.set(role, list);
}

/** Of every object, also those on which no role has a right. */
async function readRights(session: Session, roles: readonly string[]): Promise<Alike[]> {
  const { rows } = await session.query<Alike>(RIGHTS, [roles]);
  return rows;
}

/**
 * Making something is no business of most roles: it counts where it was given to the role or to one that it is a member of.
 * What everybody has is by a default of PostgreSQL, such as CREATE in the schema public before version 15.
 */
function given(acl: string, privilege: string): string {
  return `EXISTS (SELECT FROM aclexplode(${acl}) a
                   WHERE a.privilege_type = '${privilege}' AND a.grantee <> 0 AND pg_has_role(role.oid, a.grantee, 'USAGE'))`;
}

function when(condition: string, privilege: string): string {
  return `CASE WHEN ${condition} THEN '${privilege}' END`;
}

const ACL_OF_SCHEMA = `coalesce(n.nspacl, acldefault('n', n.nspowner))`;
const ACL_OF_DATABASE = `coalesce(d.datacl, acldefault('d', d.datdba))`;

/** The roles that have any of these rights, as JSON. */
function holdersOf(has: readonly string[], needs = has): string {
  const list = (rights: readonly string[]): string => `array_remove(ARRAY[${rights.join(', ')}], NULL)`;
  return `(SELECT coalesce(json_agg(json_build_object('role', role.name, 'has', o.has, 'needs', o.needs)), '[]')
             FROM role, LATERAL (SELECT ${list(has)} AS has, ${list(needs)} AS needs) o WHERE o.has <> '{}') AS holders`;
}

/** Relations with what the rights on them depend on. The oldest one stands for all: it is the least likely to be dropped meanwhile. */
function alikeRelations(kind: string, isOfKind: string): string {
  return `SELECT min(c.oid) AS oid, array_agg('${kind} ' || ${RELATION} ORDER BY n.nspname, c.relname) AS objects,
                 c.relowner, c.relacl::text, (SELECT string_agg(a.attacl::text, ' ' ORDER BY a.attnum) FROM pg_attribute a
                                               WHERE a.attrelid = c.oid AND NOT a.attisdropped) AS columns
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE ${isOfKind} AND c.relpersistence <> 't' AND ${USER_SCHEMA}
           GROUP BY 3, 4, 5`;
}

const ON_TABLE = [
  ...['SELECT', 'INSERT', 'UPDATE'].map(
    (right) => `CASE WHEN has_table_privilege(role.oid, a.oid, '${right}') THEN '${right}'
                     WHEN a.columns IS NOT NULL AND has_any_column_privilege(role.oid, a.oid, '${right}')
                     THEN '${ofSomeColumns(right)}' END`,
  ),
  ...['DELETE', 'TRUNCATE'].map((right) => when(`has_table_privilege(role.oid, a.oid, '${right}')`, right)),
];
const ON_SEQUENCE = ['USAGE', 'SELECT', 'UPDATE'].map((right) =>
  when(`has_sequence_privilege(role.oid, a.oid, '${right}')`, right),
);
const onSchema = (right: string): string => when(`has_schema_privilege(role.oid, n.oid, '${right}')`, right);
const onDatabase = (right: string): string => when(`has_database_privilege(role.oid, d.oid, '${right}')`, right);

/** A right on some columns only is told from one on all of them. Partitions, of which there may be thousands, are left to their parents. */
const RIGHTS = `
  WITH role AS MATERIALIZED (SELECT rolname::text AS name, oid FROM pg_roles WHERE rolname = ANY ($1))
  SELECT a.objects, a.objects AS on, ${holdersOf(ON_TABLE)}
    FROM (${alikeRelations('TABLE', "c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition")}) a
   UNION ALL
  SELECT a.objects, a.objects, ${holdersOf(ON_SEQUENCE)} FROM (${alikeRelations('SEQUENCE', "c.relkind = 'S'")}) a
   UNION ALL
  SELECT a.objects, a.objects,
         ${holdersOf(
           [onSchema('USAGE'), onSchema('CREATE')],
           [onSchema('USAGE'), when(given(ACL_OF_SCHEMA, 'CREATE'), 'CREATE')],
         )}
    FROM (SELECT min(n.oid) AS oid, array_agg('SCHEMA ' || quote_ident(n.nspname) ORDER BY n.nspname) AS objects
            FROM pg_namespace n WHERE ${USER_SCHEMA} GROUP BY n.nspowner, n.nspacl::text) a
    JOIN pg_namespace n ON n.oid = a.oid
   UNION ALL
  SELECT ARRAY['DATABASE'], ARRAY['DATABASE ' || quote_ident(d.datname)],
         ${holdersOf(
           [onDatabase('CONNECT'), onDatabase('CREATE'), onDatabase('TEMPORARY')],
           [
             onDatabase('CONNECT'),
             when(given(ACL_OF_DATABASE, 'CREATE'), 'CREATE'),
             when(given(ACL_OF_DATABASE, 'TEMPORARY'), 'TEMPORARY'),
           ],
         )}
    FROM pg_database d WHERE d.datname = current_database()`;

/** Relations of one owner. */
interface OfOwner {
  readonly owner: string;
  readonly ownerIsSuperuser: boolean;
  /** Qualified and quoted, in their order. */
  readonly relations: readonly string[];
  /** Those of them that have policies, by which an owner passes. */
  readonly secured: readonly string[];
  /** Those of the asked roles that are owners of them, too. */
  readonly owners: readonly string[];
}

/** What roles own on blue and not on green, by role. */
async function ownedByRole(
  blue: Session,
  green: Session,
  roles: readonly string[],
): Promise<ReadonlyMap<string, readonly Owned[]>> {
  const [there, here] = await Promise.all([readOwned(blue, roles), readOwned(green, roles)]);
  const onGreen = new Map(here.flatMap((of) => of.relations.map((relation) => [relation, { of, relation }] as const)));
  const missing = new Map<string, Owned[]>();
  for (const { relations, owners } of inOrder(there, (of) => of.relations)) {
    if (owners.length === 0) continue;
    const both = relations.flatMap((relation) => onGreen.get(relation) ?? []);
    for (const [{ of }, same] of grouped(both, (one) => one.of)) {
      const { owner, ownerIsSuperuser } = of;
      const owned = same.map(({ relation }) => ({ relation, owner, ownerIsSuperuser, isRestricted: false }));
      for (const role of owners.filter((one) => !of.owners.includes(one))) add(missing, role, owned);
    }
  }
  const secured = new Set(here.flatMap((of) => of.secured));
  const asked = [...missing].flatMap(([role, owned]) =>
    owned.flatMap(({ relation }) => (secured.has(relation) ? [{ role, relation }] : [])),
  );
  const restricted = await readRestricted(green, asked);
  if (restricted.size === 0) return missing;
  return new Map(
    [...missing].map(([role, owned]) => {
      const hidden = restricted.get(role);
      return [role, owned.map((one) => (hidden?.has(one.relation) === true ? { ...one, isRestricted: true } : one))];
    }),
  );
}

async function readOwned(session: Session, roles: readonly string[]): Promise<OfOwner[]> {
  const { rows } = await session.query<OfOwner>(OWNED, [roles]);
  return rows;
}

/** Sequences need no owner to be used. */
const OWNED = `
  SELECT o.rolname::text AS owner, o.rolsuper AS "ownerIsSuperuser", a.relations, a.secured,
         ARRAY(SELECT role.rolname::text FROM pg_roles role
                WHERE role.rolname = ANY ($1) AND pg_has_role(role.oid, o.oid, 'USAGE')) AS owners
    FROM (SELECT c.relowner, array_agg(${RELATION} ORDER BY n.nspname, c.relname) AS relations,
                 coalesce(array_agg(${RELATION}) FILTER (WHERE c.relrowsecurity AND NOT c.relforcerowsecurity), '{}') AS secured
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND ${USER_RELATION}
           GROUP BY 1) a JOIN pg_roles o ON o.oid = a.relowner`;

/** The relations of these whose policies may hide rows from a role that is no owner, by role. */
async function readRestricted(
  session: Session,
  asked: readonly { readonly role: string; readonly relation: string }[],
): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  if (asked.length === 0) return new Map();
  const { rows } = await session.query<{ role: string; relations: readonly string[] }>(RESTRICTED, [
    asked.map(({ role }) => role),
    asked.map(({ relation }) => relation),
  ]);
  return new Map(rows.map(({ role, relations }) => [role, new Set(relations)]));
}

const RESTRICTED = `
  SELECT asked.role, array_agg(asked.relation) AS relations
    FROM unnest($1::text[], $2::text[]) AS asked (role, relation)
    JOIN pg_roles role ON role.rolname = asked.role AND NOT role.rolbypassrls
    JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace) ON ${RELATION} = asked.relation
   WHERE c.relrowsecurity AND NOT c.relforcerowsecurity AND ${USER_RELATION} AND ${mayHideRows('role.oid')}
   GROUP BY 1`;

/** How many objects of one role are named. */
const NAMED = 5;

/** For people, with the statements that give them; empty when nothing is missing. */
export function describeMissingRights(missing: readonly MissingRights[]): string[] {
  return missing.flatMap(({ role, setBy, absent, rights, owned, memberships, hidden }) => {
    if (absent) {
      return [
        `the role "${role}" is connected to blue, and green has no such role that may log in: CREATE ROLE ${ident(role)} LOGIN, with the password, the attributes, the memberships and the grants that it has on blue`,
      ];
    }
    const who = `the role "${role}" ${setBy === null ? 'is connected to blue' : `can be set on blue by "${setBy}"`}`;
    return [
      ...describeMemberships(who, role, memberships, NAMED),
      ...describeRights(who, role, rights),
      ...describeOwned(role, owned),
      ...(hidden === null ? [] : [describeHidden(who, role, hidden, NAMED)]),
    ];
  });
}

function describeRights(who: string, role: string, rights: readonly Right[]): string[] {
  if (rights.length === 0) return [];
  const grants = rights
    .slice(0, NAMED)
    .map(({ on, privileges }) => `GRANT ${privileges.join(', ')} ON ${on} TO ${ident(role)}`);
  const more = rights.length > NAMED ? `; and on ${rights.length - NAMED} more` : '';
  return [`${who} and may do there what it may not on green: ${grants.join('; ')}${more}`];
}

/** Only an owner may change a table or refresh a view, and policies do not apply to it. */
function describeOwned(role: string, owned: readonly Owned[]): string[] {
  if (owned.length === 0) return [];
  const names = owned.slice(0, NAMED).map(({ relation }) => relation);
  const more = owned.length > NAMED ? ` and ${owned.length - NAMED} more` : '';
  const owners = [...new Set(owned.filter((one) => !one.ownerIsSuperuser).map(({ owner }) => owner))];
  const asMember = owners.map((owner) => `GRANT ${ident(owner)} TO ${ident(role)}`).join('; ');
  const policies = owned.some(({ isRestricted }) => isRestricted) ? 'policies for rows would apply to it, and ' : '';
  const each = `GRANT ${ident(role)} TO the user of green's connection and ALTER TABLE ... OWNER TO ${ident(role)} for each`;
  return [
    `the role "${role}" is connected to blue and is there an owner of what it does not own on green (${names.join(', ')}${more}): ${policies}it could neither change nor refresh them: ${asMember === '' ? each : `${asMember}; or ${each}`}`,
  ];
}
