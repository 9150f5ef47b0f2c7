import type { Session } from '../session.js';
import { USER_SCHEMA } from '../catalog.js';
import { NO_ARRAY_OF_ANOTHER } from './catalog-description.js';

/** An object of a database, as pg_identify_object names it; the address is for good within one database. */
export interface DatabaseObject {
  readonly classId: number;
  readonly objectId: number;
  /** `table`, `function`, `schema`, `extension`, `event trigger` ... */
  readonly type: string;
  /** Quoted and qualified: can stand in DROP. */
  readonly identity: string;
}

/**
 * What users have made in this database: objects that are dropped on their own. Those that go with another one
 * (columns, indexes, constraints, triggers, identity sequences, members of extensions) are not among them.
 */
export async function readUserObjects(session: Session): Promise<DatabaseObject[]> {
  const { rows } = await session.query<{ class_id: string; object_id: string; type: string; identity: string }>(
    USER_OBJECTS,
  );
  return rows.map((row) => ({
    classId: Number(row.class_id),
    objectId: Number(row.object_id),
    type: row.type,
    identity: row.identity,
  }));
}

/** What is in `after` and not in `before`. */
export function objectsMade(before: readonly DatabaseObject[], after: readonly DatabaseObject[]): DatabaseObject[] {
  const known = new Set(before.map(address));
  return after.filter((object) => !known.has(address(object)));
}

function address(object: DatabaseObject): string {
  return `${object.classId}/${object.objectId}`;
}

const USER_OBJECTS = `
WITH made (classid, objid, nspid) AS (
  SELECT 'pg_namespace'::regclass::oid, n.oid, n.oid FROM pg_namespace n
  UNION ALL SELECT 'pg_class'::regclass, oid, relnamespace FROM pg_class
             WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'
  UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace FROM pg_proc
  -- Without the row types of tables and the array types that come with each type.
  UNION ALL SELECT 'pg_type'::regclass, t.oid, t.typnamespace FROM pg_type t
             WHERE ${NO_ARRAY_OF_ANOTHER} AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
  UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace FROM pg_operator
  UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfnamespace FROM pg_opfamily
  UNION ALL SELECT 'pg_opclass'::regclass, oid, opcnamespace FROM pg_opclass
  UNION ALL SELECT 'pg_collation'::regclass, oid, collnamespace FROM pg_collation
  UNION ALL SELECT 'pg_conversion'::regclass, oid, connamespace FROM pg_conversion
  UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgnamespace FROM pg_ts_config
  UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictnamespace FROM pg_ts_dict
  UNION ALL SELECT 'pg_ts_parser'::regclass, oid, prsnamespace FROM pg_ts_parser
  UNION ALL SELECT 'pg_ts_template'::regclass, oid, tmplnamespace FROM pg_ts_template
  UNION ALL SELECT 'pg_extension'::regclass, oid, NULL FROM pg_extension
  UNION ALL SELECT 'pg_cast'::regclass, oid, NULL FROM pg_cast
  UNION ALL SELECT 'pg_language'::regclass, oid, NULL FROM pg_language
  UNION ALL SELECT 'pg_am'::regclass, oid, NULL FROM pg_am
  UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, NULL FROM pg_foreign_data_wrapper
  UNION ALL SELECT 'pg_foreign_server'::regclass, oid, NULL FROM pg_foreign_server
  UNION ALL SELECT 'pg_event_trigger'::regclass, oid, NULL FROM pg_event_trigger
  UNION ALL SELECT 'pg_transform'::regclass, oid, NULL FROM pg_transform
)
SELECT made.classid::text AS class_id, made.objid::text AS object_id, i.type, i.identity
  FROM made
  LEFT JOIN pg_namespace n ON n.oid = made.nspid
  CROSS JOIN LATERAL pg_identify_object(made.classid, made.objid, 0) i
 -- Below 16384 is what initdb has made.
 WHERE made.objid >= 16384 AND (n.oid IS NULL OR ${USER_SCHEMA})
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = made.classid AND d.objid = made.objid AND d.objsubid = 0 AND d.deptype IN ('e', 'i'))
 ORDER BY made.objid`;
