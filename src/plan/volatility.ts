import { isObject, namesOf, partsOf } from './sql-tree.js';

/** Something in an expression whose value does not depend on the row alone. */
export interface Impurity {
  /** As it is written: `now()`, `CURRENT_USER`. */
  readonly what: string;
  /**
   * `volatile`: another value at every call. `stable`: the same within a statement, another one later or elsewhere.
   * `setting`: depends on a setting of the session, the database or the role.
   */
  readonly kind: 'volatile' | 'stable' | 'setting';
}

/** Functions of PostgreSQL and its usual extensions that are VOLATILE (pg_proc.provolatile = 'v'). */
const VOLATILE = new Set(
  `random random_normal gen_random_uuid uuidv4 uuidv7 gen_random_bytes gen_salt clock_timestamp timeofday
   nextval setval currval lastval uuid_generate_v1 uuid_generate_v1mc uuid_generate_v4
   txid_current txid_current_if_assigned pg_sleep pg_sleep_for pg_sleep_until set_config setseed
   pg_current_wal_lsn pg_current_wal_insert_lsn pg_current_wal_flush_lsn pg_notify pg_advisory_lock
   pg_advisory_xact_lock pg_try_advisory_lock pg_try_advisory_xact_lock dblink query_to_xml lo_get lo_create`.split(
    /\s+/,
  ),
);

/** Functions that are STABLE: they depend on the time, the session, the settings or the catalog. */
const STABLE = new Set(
  `now transaction_timestamp statement_timestamp txid_current_snapshot pg_current_snapshot pg_current_xact_id
   pg_current_xact_id_if_assigned current_setting current_database current_schema current_schemas current_query
   inet_client_addr inet_client_port inet_server_addr inet_server_port pg_backend_pid pg_postmaster_start_time
   pg_conf_load_time get_current_ts_config version pg_is_in_recovery pg_my_temp_schema has_table_privilege obj_description
   col_description to_regclass`.split(/\s+/),
);

/** With so many arguments they name no text search configuration, and take that of `default_text_search_config`. */
const WITHOUT_CONFIGURATION: ReadonlyMap<string, number> = new Map([
  ['to_tsvector', 1],
  ['to_tsquery', 1],
  ['plainto_tsquery', 1],
  ['phraseto_tsquery', 1],
  ['websearch_to_tsquery', 1],
  ['json_to_tsvector', 2],
  ['jsonb_to_tsvector', 2],
  ['ts_headline', 2],
]);

/** Texts that PostgreSQL reads as a time that is not fixed. */
const TIME_WORDS = new Set(['now', 'today', 'tomorrow', 'yesterday']);

/** What in an expression makes it give another value for the same row at another time or in another session. */
export function impuritiesOf(tree: unknown): Impurity[] {
  return [...partsOf(tree)].flatMap(({ type, fields }): Impurity[] => {
    if (type === 'FuncCall') return ofFunction(namesOf(fields['funcname']), fields['args']);
    if (type === 'SQLValueFunction') {
      return [
        {
          what: String(fields['op'])
            .replace(/^SVFOP_/, '')
            .replace(/_N$/, ''),
          kind: 'stable',
        },
      ];
    }
    if (type === 'TypeCast') return ofCast(fields);
    return [];
  });
}

function ofFunction(names: readonly string[], args: unknown): Impurity[] {
  const name = names.at(-1) ?? '';
  const what = `${names.filter((part) => part !== 'pg_catalog').join('.')}()`;
  if (VOLATILE.has(name)) return [{ what, kind: 'volatile' }];
  if (STABLE.has(name)) return [{ what, kind: 'stable' }];
  if (Array.isArray(args) && args.length === WITHOUT_CONFIGURATION.get(name))
    return [{ what: `${what} without a text search configuration`, kind: 'setting' }];
  // age(x) counts from today, age(x, y) does not.
  if (name === 'age' && Array.isArray(args) && args.length === 1)
    return [{ what: 'age() of one value', kind: 'stable' }];
  return [];
}

/** `'now'::timestamp` */
function ofCast(fields: Readonly<Record<string, unknown>>): Impurity[] {
  const constant = isObject(fields['arg']) ? fields['arg']['A_Const'] : undefined;
  const value = isObject(constant) ? constant['sval'] : undefined;
  const text = isObject(value) ? value['sval'] : undefined;
  const type = isObject(fields['typeName']) ? namesOf(fields['typeName']['names']).at(-1) : undefined;
  if (typeof text !== 'string' || !TIME_WORDS.has(text.trim().toLowerCase())) return [];
  return /^(timestamp|date|time)/.test(type ?? '') ? [{ what: `'${text}'::${type ?? ''}`, kind: 'stable' }] : [];
}
