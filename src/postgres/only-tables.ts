import { knownSettings } from './known-settings.js';

/*
 * Rows are read by name, some hours after the catalog was: by then the owner of a table may have put a view or a foreign
 * table in its place, whose functions would run as our user. PostgreSQL can be told to refuse both, as pg_dump does, in
 * all minor releases since August 2024 (CVE-2024-7348); older ones know no such setting.
 */

/**
 * An SQL expression that has a session, or with `local` its transaction, read from tables alone, or from views and foreign
 * tables again: expressions of a plan may.
 */
export function setOnlyTables(only: boolean, local = false): string {
  return `(SELECT pg_catalog.set_config(name, '${only ? 'view, foreign-table' : ''}', ${String(local)})
             FROM ${knownSettings(['restrict_nonsystem_relation_kind'])})`;
}
