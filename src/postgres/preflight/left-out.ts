import { USER_SCHEMA } from '../catalog.js';
import { NEW_GREEN, type SideCheck } from './check.js';
import { listed } from './finding.js';

/** Checks of what the dump of the schema leaves out (see schema-copy/pg-dump.ts). */

/** Green's server may not have who gives them their meaning, and would refuse each. */
export const securityLabels: SideCheck = {
  name: 'security-labels',
  sides: ['blue'],
  methods: NEW_GREEN,
  run: async ({ session }) => {
    const { rows } = await session.query<{ provider: string; labels: number }>(
      `SELECT provider, count(*)::int AS labels
         FROM (SELECT provider FROM pg_seclabel
                UNION ALL SELECT l.provider FROM pg_shseclabel l JOIN pg_database d ON d.oid = l.objoid
                           WHERE l.classoid = 'pg_database'::regclass AND d.datname = current_database()) of_database
        GROUP BY provider ORDER BY 1`,
    );
    return rows.map(({ provider, labels }) => ({
      severity: 'warning',
      object: provider,
      message: `blue has ${labels} security ${labels === 1 ? 'label' : 'labels'} of ${provider}, which are not copied: what they hide or forbid on blue is open on green`,
      remedy:
        "Set them on green before reads move there: load the provider on green's server, and run there what `pg_dump --schema-only` of blue writes as SECURITY LABEL",
    }));
  },
};

/** What has a tablespace of its own goes into the default one of green's database. */
export const tablespaces: SideCheck = {
  name: 'tablespaces',
  sides: ['blue'],
  methods: NEW_GREEN,
  run: async ({ session }) => {
    const { rows } = await session.query<{ tablespace: string; relations: string[]; size: string }>(
      // Of pg_class: pg_relation_size() would wait for whoever has one of them to himself.
      `SELECT t.spcname AS tablespace, array_agg(c.oid::regclass::text ORDER BY c.relpages DESC, c.oid) AS relations,
              pg_size_pretty(sum(c.relpages::bigint * current_setting('block_size')::int)) AS size
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_tablespace t ON t.oid = c.reltablespace
        WHERE c.relkind IN ('r', 'p', 'm', 'i', 'I') AND ${USER_SCHEMA}
        GROUP BY t.spcname ORDER BY 1`,
    );
    return rows.map(({ tablespace, relations, size }) => ({
      severity: 'info',
      object: tablespace,
      message: `${relations.length} tables and indexes of blue are in the tablespace ${tablespace} (about ${size}: ${listed(relations)}); on green they go into the default one of its database`,
      remedy:
        "See that there is room, or make green's database with another default (CREATE DATABASE ... TABLESPACE); ALTER TABLE ... SET TABLESPACE afterwards locks and writes the whole table",
    }));
  },
};
