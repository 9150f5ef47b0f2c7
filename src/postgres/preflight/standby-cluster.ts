import { USER_SCHEMA } from '../catalog.js';
import { dropPhysicalSlot, readPhysicalSlot } from '../bootstrap/standby/physical-slot.js';
import { literal } from '../identifier.js';
import { isInRecovery } from '../in-recovery.js';
import { oneRow, type Found, type PairCheck, type PairContext, type SideContext } from './check.js';
import { listed } from './finding.js';
import { STANDBY } from './standby.js';

/** Checks of what the promotion of a standby does beside the database that is moved: it is a whole cluster. */
export const standbyCluster: PairCheck = {
  name: 'standby-cluster',
  methods: STANDBY,
  run: async (pair) => {
    if (!(await isInRecovery(pair.green.session))) return [];
    return [
      ...(await otherDatabases(pair.green)).map((found) => ({ side: 'green' as const, ...found })),
      ...(await leftOutTables(pair)).map((found) => ({ side: 'green' as const, ...found })),
      ...(await doubledSubscriptions(pair.green)).map((found) => ({ side: 'blue' as const, ...found })),
      ...(await cascadingStandbys(pair.green)).map((found) => ({ side: 'green' as const, ...found })),
      ...(await synchronousCommits(pair)).map((found) => ({ side: 'blue' as const, ...found })),
      ...(await slotsOfGreen(pair.green)).map((found) => ({ side: 'green' as const, ...found })),
      ...(await synchronizedStandby(pair)).map((found) => ({ side: 'blue' as const, ...found })),
      ...(await whatStartsByItself(pair.green)).map((found) => ({ side: 'green' as const, ...found })),
    ];
  },
};

async function otherDatabases({ session }: SideContext): Promise<Found[]> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT datname AS name FROM pg_database
      WHERE NOT datistemplate AND datname NOT IN (current_database(), 'postgres') ORDER BY 1`,
  );
  if (rows.length === 0) return [];
  const names = rows.map(({ name }) => name);
  return [
    {
      severity: 'warning',
      object: listed(names),
      message: `green is promoted as a whole: ${names.length} other databases of its cluster stop following blue with it, and are moved by nobody`,
      remedy:
        'See that nobody reads them on green any more; drop them there afterwards, or move each by a run of its own with a standby of its own',
    },
  ];
}

/** A schema copy leaves them out; a physical copy brings them along. */
async function leftOutTables({ blue, green }: PairContext): Promise<Found[]> {
  const moved = (await blue.tables()).map(({ oid }) => oid);
  const { rows } = await green.session.query<{ name: string }>(
    `SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p') AND ${USER_SCHEMA} AND c.oid <> ALL ($1::oid[])
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
      ORDER BY 1`,
    [moved],
  );
  if (rows.length === 0) return [];
  return [
    {
      severity: 'warning',
      object: listed(rows.map(({ name }) => name)),
      message: `green has ${rows.length} tables that the plan leaves out: they stay there with the rows of the moment of the promotion`,
      remedy: 'Drop them on green afterwards, or include them in "tables"',
    },
  ];
}

/** Subscriptions are part of the copy. Enabled ones start on green, too, and would take the publisher's slot from blue. */
async function doubledSubscriptions({ session }: SideContext): Promise<Found[]> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT d.datname || '.' || s.subname AS name FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
      WHERE s.subenabled AND s.subname NOT LIKE 'verdigris\\_%' ORDER BY 1`,
  );
  if (rows.length === 0) return [];
  return [
    {
      severity: 'error',
      object: listed(rows.map(({ name }) => name)),
      message:
        "blue's cluster has subscriptions that are enabled: the promoted green would start the same ones, and the two would take each other's slot, so rows would go to one of them only",
      remedy:
        'Disable these subscriptions until green has been promoted and they are dropped there, or take another bootstrap method',
    },
  ];
}

async function cascadingStandbys({ session }: SideContext): Promise<Found[]> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT coalesce(nullif(application_name, ''), 'pid ' || pid) AS name FROM pg_stat_replication ORDER BY 1`,
  );
  if (rows.length === 0) return [];
  return [
    {
      severity: 'warning',
      object: listed(rows.map(({ name }) => name)),
      message:
        'other servers follow green: with its promotion they become standbys of the new green, and follow blue no more',
      remedy:
        'Nothing, if they are meant to be replicas of green; else let them follow blue first. A base backup that is being taken from green fails',
    },
  ];
}

/** Blue would wait for a standby that is gone: every commit of the application hangs. */
async function synchronousCommits({ blue, green }: PairContext): Promise<Found[]> {
  const { rows: named } = await green.session.query<{ slot: string; cluster: string; application: string | null }>(
    // Not everybody may see these settings: pg_settings leaves them out then.
    `SELECT current_setting('primary_slot_name') AS slot, current_setting('cluster_name') AS cluster,
            (SELECT substring(setting from 'application_name\\s*=\\s*''?([^''[:space:]]+)')
               FROM pg_settings WHERE name = 'primary_conninfo') AS application`,
  );
  const { slot = '', cluster = '', application = null } = named[0] ?? {};
  const { rows } = await blue.session.query<{ name: string; state: string }>(
    `SELECT r.application_name AS name, r.sync_state AS state FROM pg_stat_replication r
       LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
      WHERE r.sync_state IN ('sync', 'quorum') AND (s.slot_name = $1 OR r.application_name = $2)`,
    [slot, application ?? (cluster === '' ? 'walreceiver' : cluster)],
  );
  return rows.map(({ name, state }): Found => ({
    severity: 'error',
    object: 'synchronous_standby_names',
    message: `commits on blue wait for green ("${name}", ${state}): once it is promoted, they could wait for ever`,
    remedy:
      'Take green out of synchronous_standby_names on blue (ALTER SYSTEM, reload) before the run. Green has a copy of that setting, of its own: see synchronous-standbys',
  }));
}

/** Slots are no part of the copy: these are green's own, of any database, and stay with its promotion. */
async function slotsOfGreen({ session }: SideContext): Promise<Found[]> {
  const { rows } = await session.query<{ name: string; database: string; plugin: string; synced: boolean }>(
    // Before PostgreSQL 17 none is synchronized.
    `SELECT slot_name AS name, database, plugin, coalesce((to_jsonb(s) ->> 'synced')::boolean, false) AS synced
       FROM pg_replication_slots s
      WHERE slot_type = 'logical' AND NOT temporary AND slot_name NOT LIKE 'verdigris\\_%' ORDER BY 1`,
  );
  return rows.map(({ name, database, plugin, synced }): Found => ({
    severity: 'warning',
    object: name,
    ...(synced
      ? {
          message: `green keeps the slot "${name}" (${plugin}, of database "${database}") as blue has it: with its promotion it becomes a slot of its own, which nobody reads, and which holds back WAL and VACUUM on green without a limit`,
          remedy: `Once green is promoted, on green: SELECT pg_drop_replication_slot(${literal(name)}). Its reader stays on blue while the standby window lasts (docs/what-if.md): from this slot it would get every row of the feed a second time`,
        }
      : {
          message: `somebody reads green itself through the slot "${name}" (${plugin}, of database "${database}"): it stays with the promotion, and sends then what the feed brings from blue, and what is written on green`,
          remedy: `See that its reader is meant to go on so; else stop that one, and once green is promoted, on green: SELECT pg_drop_replication_slot(${literal(name)}). It holds back WAL and VACUUM there until somebody reads it or it is dropped`,
        }),
  }));
}

/** PostgreSQL 17: what blue sends by its failover slots waits for the standbys that are named. */
async function synchronizedStandby({ blue, green }: PairContext): Promise<Found[]> {
  const { slot } = await oneRow<{ slot: string }>(green.session, `SELECT current_setting('primary_slot_name') AS slot`);
  const { isNamed } = await oneRow<{ isNamed: boolean }>(
    blue.session,
    `SELECT EXISTS (SELECT FROM regexp_split_to_table(current_setting('synchronized_standby_slots', true), '\\s*,\\s*') AS named (slot)
                     WHERE trim(named.slot, ' "') = $1) AS "isNamed"`,
    [slot],
  );
  if (slot === '' || !isNamed) return [];
  return [
    {
      severity: 'warning',
      object: 'synchronized_standby_slots',
      message: `what blue sends through its failover slots waits for green ("${slot}"): once green is promoted, or that slot is dropped, none of them is sent anything any more, and blue keeps their WAL without a limit`,
      remedy: `Take "${slot}" out of synchronized_standby_slots on blue (ALTER SYSTEM, reload) before the run`,
    },
  ];
}

/** Extensions with processes that run jobs as soon as the server takes writes. */
const SCHEDULERS = /\b(pg_cron|pg_timetable|pg_partman_bgw|timescaledb|pgagent)\b/g;

async function whatStartsByItself({ session }: SideContext): Promise<Found[]> {
  const { archives, preloaded } = await oneRow<{ archives: boolean; preloaded: string }>(
    session,
    `SELECT coalesce((SELECT setting FROM pg_settings WHERE name = 'shared_preload_libraries'), '') AS preloaded,
            current_setting('archive_mode') <> 'off'
              AND coalesce(nullif(current_setting('archive_command', true), '(disabled)'), '')
                  || coalesce(current_setting('archive_library', true), '') <> '' AS archives`,
  );
  const jobs = [...new Set(preloaded.match(SCHEDULERS) ?? [])];
  return [
    ...(archives
      ? [
          {
            severity: 'warning',
            object: 'archive_command',
            message:
              "green archives WAL: if it is the archive of blue, green's new timeline goes there with its promotion, and a restore of blue to the latest timeline would end up on green's",
            remedy: 'Give green an archive of its own (ALTER SYSTEM SET archive_command, reload) before the run',
          } as const,
        ]
      : []),
    ...(jobs.length === 0
      ? []
      : [
          {
            severity: 'warning',
            object: listed(jobs),
            message: `${listed(jobs)} runs on green, too: its jobs start there with the promotion, while they run on blue`,
            remedy:
              'Switch the jobs off on green: for pg_cron, ALTER SYSTEM SET cron.launch_active_jobs = off before the run',
          } as const,
        ]),
  ];
}

/** The slot that keeps blue's WAL for the standby is read by nobody once the standby is promoted. */
export const standbySlot: PairCheck = {
  name: 'standby-slot',
  methods: STANDBY,
  run: async ({ blue, green }) => {
    const slot = await readPhysicalSlot(blue.session, green.session);
    if (slot === undefined) return [];
    return [
      {
        side: 'blue',
        severity: 'warning',
        object: slot.name,
        message: `green uses the physical slot ${slot.name} on blue: after the promotion nobody reads it, and it holds back WAL${slot.holdsVacuum ? ' and VACUUM' : ''} on blue until it is dropped`,
        remedy: `Once green is promoted, on blue, unless another standby uses it: ${dropPhysicalSlot(slot)}`,
      },
    ];
  },
};
