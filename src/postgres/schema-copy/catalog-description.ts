import { USER_SCHEMA } from '../catalog.js';
import type { Session } from '../session.js';

/** One thing in a database, described so that two databases can be compared. */
export interface DescribedObject {
  /** `table`, `column`, `index` ... */
  readonly kind: string;
  /** `schema.table`, or the name where it belongs to no schema; with the part's name behind it for parts of a table. */
  readonly object: string;
  /** The relation that it is or belongs to, as `schema.name`; null for what belongs to none. */
  readonly relation: string | null;
  /** What must be equal on any two versions. */
  readonly facts: Readonly<Record<string, unknown>>;
  /** SQL as the server writes it: only one version writes it in the same way every time. */
  readonly text: Readonly<Record<string, string | null>>;
}

/** Describes everything that a schema copy copies. All names in it are to be quoted: see allQuoted. */
export async function describeCatalog(session: Session): Promise<DescribedObject[]> {
  const described: DescribedObject[] = [];
  for (const [kind, sql] of Object.entries(DESCRIPTIONS)) {
    const { rows } = await session.query<Omit<DescribedObject, 'kind'>>(sql);
    described.push(
      ...rows.map(({ object, facts, ...row }) => ({
        ...{ kind, object: withoutNeedlessQuotes(object), facts: withPlainTypes(facts) },
        ...row,
      })),
    );
  }
  return described;
}

/** Facts in which the server writes the names of types. */
const NAMES_OF_TYPES = new Set(['type', 'base', 'subtype', 'result', 'arguments']);

/** `json` is a word of SQL in later versions, which never quote it; in earlier ones it is a name like others. */
function withPlainTypes(facts: DescribedObject['facts']): DescribedObject['facts'] {
  return Object.fromEntries(
    Object.entries(facts).map(([fact, value]) => [
      fact,
      NAMES_OF_TYPES.has(fact) && typeof value === 'string' ? withoutNeedlessQuotes(value) : value,
    ]),
  );
}

/** Has the server quote every name while `work` reads: by itself it quotes those that its own version reserves. */
export async function allQuoted<T>(session: Session, work: () => Promise<T>): Promise<T> {
  await session.query(`SELECT set_config('quote_all_identifiers', 'on', false)`);
  try {
    return await work();
  } finally {
    await session.query(`SELECT set_config('quote_all_identifiers', 'off', false)`).catch(() => undefined);
  }
}

/** Names as formatTableName writes them, whatever the server has quoted. */
export function withoutNeedlessQuotes(names: string): string {
  return names.replaceAll(/"([a-z_][a-z0-9_$]*)"/g, '$1');
}

/** A condition: the object is no member of an extension. */
export function notOfExtension(catalog: string, oid: string): string {
  return `NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '${catalog}'::regclass AND e.objid = ${oid} AND e.deptype = 'e')`;
}

/**
 * A condition: the object did not come with another one, as the constructors of a range type, which belong to the first
 * superuser whoever has made the type, and its multirange type.
 */
export function notPartOfAnother(catalog: string, oid: string): string {
  return `NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = '${catalog}'::regclass AND i.objid = ${oid} AND i.deptype = 'i')`;
}

/** A condition: the type `t` is not the array type that comes with another one. A domain has the category of its base. */
export const NO_ARRAY_OF_ANOTHER = `(t.typcategory <> 'A' OR t.typtype = 'd')`;

/** A name as formatTableName writes it. quote_ident would also quote words that are reserved in one version only. */
function name(column: string): string {
  return `CASE WHEN ${column} ~ '^[a-z_][a-z0-9_$]*$' THEN ${column} ELSE '"' || replace(${column}, '"', '""') || '"' END`;
}

/** The qualified name of the relation \`c\` in the schema \`n\`. */
export const RELATION = `${name('n.nspname')} || '.' || ${name('c.relname')}`;

/** The qualified name of the relation with that oid: an expression. */
export function relationOf(oid: string): string {
  return `(SELECT ${RELATION} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ${oid})`;
}
/** A condition: the relation `c` in the schema `n` is somebody's own, and stays. */
export const USER_RELATION = `${USER_SCHEMA} AND c.relpersistence <> 't' AND ${notOfExtension('pg_class', 'c.oid')}`;

/**
 * Who may do what, whoever has granted it: what holders of a grant option have granted comes from the owner on green.
 * MAINTAIN came with 17: GRANT ALL of an older dump gives it, too.
 */
function acl(list: string, kind: string, owner: string): string {
  return `(SELECT json_agg(entry ORDER BY entry) FROM (
            SELECT concat_ws(' ', ${role('a.grantee')}, a.privilege_type, CASE WHEN bool_or(a.is_grantable) THEN 'grantable' END) AS entry
              FROM aclexplode(coalesce(${list}, acldefault('${kind}', ${owner}))) a WHERE a.privilege_type <> 'MAINTAIN'
             GROUP BY a.grantee, a.privilege_type) g)`;
}

/** The name of a role that may stand for everybody. */
function role(oid: string): string {
  return `CASE ${oid} WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(${oid}) END`;
}

/** A fact of a column: null before 17, where only the parent of a partition has it. */
export const PARTITION_IDENTITY = 'identity of the partition';

const DESCRIPTIONS: Readonly<Record<string, string>> = {
  schema: `
    SELECT ${name('n.nspname')} AS object, NULL AS relation,
           json_build_object('owner', pg_get_userbyid(n.nspowner), 'grants', ${acl('n.nspacl', 'n', 'n.nspowner')}) AS facts, '{}'::json AS text
      FROM pg_namespace n WHERE ${USER_SCHEMA} AND ${notOfExtension('pg_namespace', 'n.oid')}`,
  table: `
    SELECT ${RELATION} AS object, ${RELATION} AS relation,
           json_build_object('kind', c.relkind, 'persistence', c.relpersistence, 'replica identity', c.relreplident,
             'row security', c.relrowsecurity, 'forced row security', c.relforcerowsecurity,
             'options', (SELECT json_agg(o ORDER BY o) FROM unnest(c.reloptions) o), 'partition key', pg_get_partkeydef(c.oid),
             'parents', (SELECT json_agg(i.inhparent::regclass::text ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid),
             'owner', pg_get_userbyid(c.relowner),
             'grants', ${acl('c.relacl', 'r', 'c.relowner')}, 'comment', obj_description(c.oid, 'pg_class')) AS facts,
           json_build_object('partition bound', pg_get_expr(c.relpartbound, c.oid)) AS text
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f') AND ${USER_RELATION}`,
  view: `
    SELECT ${RELATION} AS object, ${RELATION} AS relation,
           json_build_object('kind', c.relkind, 'options', (SELECT json_agg(o ORDER BY o) FROM unnest(c.reloptions) o),
             'owner', pg_get_userbyid(c.relowner), 'grants', ${acl('c.relacl', 'r', 'c.relowner')},
             'comment', obj_description(c.oid, 'pg_class')) AS facts,
           json_build_object('definition', pg_get_viewdef(c.oid)) AS text
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('v', 'm') AND ${USER_RELATION}`,
  // Partitions have their parent's identity since 17; before, only the parent had one.
  column: `
    SELECT ${RELATION} || '.' || ${name('a.attname')} AS object, ${RELATION} AS relation,
           json_build_object('type', format_type(a.atttypid, a.atttypmod), 'not null', a.attnotnull,
             'identity', CASE WHEN c.relispartition THEN '' ELSE a.attidentity END,
             '${PARTITION_IDENTITY}', CASE WHEN c.relispartition AND current_setting('server_version_num')::int >= 170000
                                            THEN a.attidentity END,
             'generated', a.attgenerated, 'has default', a.atthasdef,
             'collation', CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END,
             'grants', ${acl('a.attacl', 'c', 'c.relowner')},
             'comment', col_description(c.oid, a.attnum)) AS facts,
           json_build_object('default', pg_get_expr(d.adbin, d.adrelid)) AS text
      FROM pg_attribute a
      JOIN pg_type t ON t.oid = a.atttypid
      JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f', 'v', 'm', 'c') AND ${USER_RELATION}`,
  // Without what a failed or running CONCURRENTLY has left: no dump has it, and no query uses it.
  index: `
    SELECT ${name('n.nspname')} || '.' || ${name('ic.relname')} AS object, ${RELATION} AS relation,
           json_build_object('valid', i.indisvalid, 'unique', i.indisunique, 'primary', i.indisprimary, 'replica identity', i.indisreplident,
             'immediate', i.indimmediate, 'comment', obj_description(ic.oid, 'pg_class')) AS facts,
           json_build_object('definition', pg_get_indexdef(i.indexrelid)) AS text
      FROM pg_index i
      JOIN pg_class ic ON ic.oid = i.indexrelid
      JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE (i.indisvalid OR c.relkind = 'p') AND ${USER_RELATION}`,
  // NOT NULL constraints ('n') are in this catalog since 18, and in pg_attribute always. Children follow their parents.
  constraint: `
    SELECT ${RELATION} || '.' || ${name('k.conname')} AS object, ${RELATION} AS relation,
           json_build_object('type', k.contype, 'validated', k.convalidated, 'deferrable', k.condeferrable, 'deferred', k.condeferred,
             'comment', obj_description(k.oid, 'pg_constraint')) AS facts,
           json_build_object('definition', pg_get_constraintdef(k.oid)) AS text
      FROM pg_constraint k
      JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND (k.conparentid = 0 OR k.contype IN ('p', 'u')) AND ${USER_RELATION}`,
  trigger: `
    SELECT ${RELATION} || '.' || ${name('t.tgname')} AS object, ${RELATION} AS relation,
           json_build_object('enabled', t.tgenabled, 'function', t.tgfoid::regproc::text) AS facts,
           json_build_object('definition', pg_get_triggerdef(t.oid)) AS text
      FROM pg_trigger t
      JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgname !~ '^_?verdigris_' AND ${USER_RELATION}`,
  rule: `
    SELECT ${RELATION} || '.' || ${name('r.rulename')} AS object, ${RELATION} AS relation,
           json_build_object('enabled', r.ev_enabled) AS facts, json_build_object('definition', pg_get_ruledef(r.oid)) AS text
      FROM pg_rewrite r
      JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE r.rulename <> '_RETURN' AND ${USER_RELATION}`,
  // A dump writes the roles of a policy in the order in which they were made, not in that of CREATE POLICY.
  policy: `
    SELECT ${RELATION} || '.' || ${name('p.polname')} AS object, ${RELATION} AS relation,
           json_build_object('command', p.polcmd, 'permissive', p.polpermissive,
             'roles', (SELECT json_agg(role ORDER BY role) FROM (SELECT ${role('r')} AS role FROM unnest(p.polroles) r) named)) AS facts,
           json_build_object('using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid)) AS text
      FROM pg_policy p
      JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE ${USER_RELATION}`,
  sequence: `
    SELECT ${RELATION} AS object, coalesce(${relationOf('d.refobjid')}, ${RELATION}) AS relation,
           json_build_object('type', s.seqtypid::regtype::text, 'start', s.seqstart::text, 'increment', s.seqincrement::text,
             'min', s.seqmin::text, 'max', s.seqmax::text, 'cache', s.seqcache::text, 'cycle', s.seqcycle,
             'owned by', d.refobjid::regclass::text, 'owner', pg_get_userbyid(c.relowner),
             'grants', ${acl('c.relacl', 's', 'c.relowner')}) AS facts, '{}'::json AS text
      FROM pg_sequence s
      JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
                           AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
     WHERE ${USER_RELATION}`,
  function: `
    SELECT p.oid::regprocedure::text AS object, NULL AS relation,
           json_build_object('kind', p.prokind, 'result', pg_get_function_result(p.oid), 'arguments', pg_get_function_identity_arguments(p.oid),
             'language', l.lanname, 'volatility', p.provolatile, 'strict', p.proisstrict, 'security definer', p.prosecdef,
             'parallel', p.proparallel, 'leakproof', p.proleakproof, 'settings', p.proconfig, 'body', p.prosrc,
             'owner', pg_get_userbyid(p.proowner), 'grants', ${acl('p.proacl', 'f', 'p.proowner')}) AS facts,
           json_build_object('all arguments', pg_get_function_arguments(p.oid), 'SQL body', pg_get_function_sqlbody(p.oid)) AS text
      FROM pg_proc p
      JOIN pg_namespace n ON n.oid = p.pronamespace
      JOIN pg_language l ON l.oid = p.prolang
     WHERE ${USER_SCHEMA} AND ${notOfExtension('pg_proc', 'p.oid')} AND ${notPartOfAnother('pg_proc', 'p.oid')}`,
  // On 15 the multirange type of a range has owner and grants of its own, which no statement of a dump changes.
  type: `
    SELECT t.oid::regtype::text AS object, NULL AS relation,
           json_build_object('type', t.typtype, 'not null', t.typnotnull, 'base', nullif(format_type(t.typbasetype, t.typtypmod), '-'),
             'labels', (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
             'subtype', (SELECT r.rngsubtype::regtype::text FROM pg_range r WHERE r.rngtypid = t.oid),
             'checks', (SELECT json_agg(k.conname ORDER BY k.conname) FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'),
             'owner', CASE WHEN t.typtype <> 'm' THEN pg_get_userbyid(t.typowner) END,
             'grants', CASE WHEN t.typtype <> 'm' THEN ${acl('t.typacl', 'T', 't.typowner')} END) AS facts,
           json_build_object('default', pg_get_expr(t.typdefaultbin, 0),
             'checks', (SELECT string_agg(pg_get_constraintdef(k.oid), ' ' ORDER BY k.conname) FROM pg_constraint k
                         WHERE k.contypid = t.oid AND k.contype = 'c')) AS text
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
     WHERE ${USER_SCHEMA} AND ${notOfExtension('pg_type', 't.oid')} AND ${NO_ARRAY_OF_ANOTHER}
       AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))`,
  statistics: `
    SELECT ${name('n.nspname')} || '.' || ${name('s.stxname')} AS object, ${relationOf('s.stxrelid')} AS relation, '{}'::json AS facts,
           json_build_object('definition', pg_get_statisticsobjdef(s.oid)) AS text
      FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE ${USER_SCHEMA}`,
  extension: `
    SELECT ${name('e.extname')} AS object, NULL AS relation,
           json_build_object('schema', e.extnamespace::regnamespace::text) AS facts, '{}'::json AS text
      FROM pg_extension e WHERE e.extname <> 'plpgsql'`,
  'event trigger': `
    SELECT ${name('t.evtname')} AS object, NULL AS relation,
           json_build_object('event', t.evtevent, 'enabled', t.evtenabled, 'tags', t.evttags, 'function', t.evtfoid::regproc::text) AS facts,
           '{}'::json AS text
      FROM pg_event_trigger t WHERE t.evtname !~ '^verdigris_' AND ${notOfExtension('pg_event_trigger', 't.oid')}`,
};
