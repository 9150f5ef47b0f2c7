import { directionTo } from '../feed.js';
import { otherSide, type Side } from '../../side.js';
import { describeOwner } from '../replication-slot.js';
import { streamNames } from '../streams.js';
import { readOtherSubscriptions } from '../unmoved-contents.js';
import { listed } from './finding.js';
import { BOTH_SIDES, type Found, type PairCheck, type SideCheck } from './check.js';

/** Checks of other replication: Verdigris' own objects are called verdigris_*. */

export const otherSubscriptions: SideCheck = {
  name: 'other-subscriptions',
  sides: BOTH_SIDES,
  run: async ({ session, side, plan }) => {
    // A standby shows those of blue: they are told once.
    if (side === 'green' && plan.bootstrap.method === 'standby') return [];
    const names = await readOtherSubscriptions(session);
    if (names.length === 0) return [];
    return [
      {
        severity: 'error',
        object: listed(names),
        message: `${side} subscribes to another database: what arrives that way passes the fence, so a write could be lost at the promotion`,
        remedy: 'Drop these subscriptions, or move that feed to green when the migration has ended',
      },
    ];
  },
};

/**
 * Feeds between servers of 16 and later leave out what was written by a replication origin. Whether that is so of moved tables
 * is not known: origins are of the whole server, and whoever writes by one is a session as any other.
 */
export const otherOrigins: PairCheck = {
  name: 'other-origins',
  run: async ({ blue, green }) => {
    if (blue.version < 16 || green.version < 16) return [];
    // A standby shows those of blue: they are told once.
    const sides = blue.plan.bootstrap.method === 'standby' ? [blue] : [blue, green];
    const found = await Promise.all(
      sides.map(async ({ session, side }) => {
        // Those of subscriptions, and of the tables that these synchronize, are called by their numbers.
        const { rows } = await session.query<{ name: string }>(
          `SELECT roname AS name FROM pg_replication_origin WHERE roname !~ '^pg_[0-9]+(_[0-9]+)*$' ORDER BY 1`,
        );
        return rows.length === 0 ? [] : [writesByOrigin(side, listed(rows.map(({ name }) => name)))];
      }),
    );
    return found.flat();
  },
};

function writesByOrigin(side: Side, names: string): Found & { readonly side: Side } {
  return {
    side,
    severity: 'warning',
    object: names,
    message: `the server of ${side} has replication origins that are of no subscription: what a session writes by one of them into a moved table (pglogical, pgcopydb, an applier of yours) is not sent on, so ${otherSide(side)} would lack it, and a comparison would find that only later`,
    remedy:
      'See that nothing writes into this database by them while the run lasts; SELECT pg_replication_origin_drop(...) where nobody uses one',
  };
}

/** Slots are of the whole server, and what is looked up and dropped is looked for in this database. */
export const slotNames: SideCheck = {
  name: 'slot-names',
  sides: BOTH_SIDES,
  run: async ({ session, side, plan }) => {
    const names = streamNames(plan.name, directionTo(otherSide(side)), plan.replicate.streams);
    const { rows } = await session.query<{ name: string; database: string | null }>(
      `SELECT slot_name AS name, database FROM pg_replication_slots
        WHERE slot_name = ANY ($1) AND database IS DISTINCT FROM current_database() ORDER BY 1`,
      [names],
    );
    return rows.map(({ name, database }): Found => ({
      severity: 'error',
      object: name,
      message: `the server of ${side} has a slot "${name}" already, ${describeOwner(database)}: the run needs one of that name`,
      remedy:
        'Give the plan another name: those that differ only in "-" and "_" have the same slots. Or end the run that the slot is of, and see verdigris doctor',
    }));
  },
};

/** A slot on green that is older than the promotion would send once more what blue's sends: the feed is decoded, too. */
const HAND_OVER =
  'Leave it on blue while the standby window lasts: every row of green comes there, and a rollback needs nothing. Before `retire`: publication and slot on green, stop it on blue, start it on green without a snapshot (docs/what-if.md). No slot on green before writes move: it would send every change a second time. Drop it if nobody uses it';

interface OtherPublication {
  readonly name: string;
  /** It has whatever is made in schema verdigris. */
  readonly ofAll: boolean;
  /** Slots by which a subscription of PostgreSQL reads it right now. */
  readonly readBy: readonly string[];
}

/**
 * A walsender's query is the command that began it, with the publications. A subscription calls itself as its slot, which
 * other consumers (Debezium) do not: those take tables that they do not know.
 */
const OTHER_PUBLICATIONS = `
  SELECT p.pubname::text AS name,
         p.puballtables OR EXISTS (SELECT FROM pg_publication_namespace s JOIN pg_namespace n ON n.oid = s.pnnspid
                                    WHERE s.pnpubid = p.oid AND n.nspname = 'verdigris') AS "ofAll",
         ARRAY(SELECT r.slot_name::text FROM pg_replication_slots r JOIN pg_stat_activity a ON a.pid = r.active_pid
                WHERE r.database = current_database() AND r.plugin = 'pgoutput' AND r.slot_name NOT LIKE 'verdigris\\_%'
                  AND a.application_name = r.slot_name AND a.query LIKE 'START_REPLICATION %'
                  AND strpos(split_part(a.query, 'publication_names', 2), format('"%s"', replace(p.pubname, '"', '""'))) > 0
                ORDER BY 1) AS "readBy"
    FROM pg_publication p WHERE p.pubname NOT LIKE 'verdigris\\_%' ORDER BY 1`;

/** A subscriber that lacks a table of which a row comes stops there: the relation is looked up before anything else. */
function ofAllTables(side: Side, { name, readBy }: OtherPublication): Found {
  return {
    severity: readBy.length > 0 ? 'error' : 'warning',
    object: name,
    message: `the publication "${name}" of ${side} has the tables of schema verdigris, too, which the run makes${
      readBy.length > 0 ? `, and ${listed(readBy)} reads it` : ''
    }: a subscription to it stops at their first row, for good, and its slot keeps the WAL`,
    remedy:
      'Before the run, make a second one FOR TABLES IN SCHEMA ... (15 and later) or FOR TABLE with a list, ALTER SUBSCRIPTION ... SET PUBLICATION to it, and drop this one when its subscribers have come past that. A consumer that is no PostgreSQL (Debezium) may leave schema verdigris out',
  };
}

export const otherConsumers: SideCheck = {
  name: 'other-consumers',
  sides: BOTH_SIDES,
  run: async ({ session, side, plan }) => {
    // A standby has blue's publications; its slots are told with the cluster (standby-cluster).
    if (side === 'green' && plan.bootstrap.method === 'standby') return [];
    const { rows: slots } = await session.query<{ name: string; plugin: string | null; active: boolean }>(
      `SELECT slot_name AS name, plugin, active FROM pg_replication_slots
        WHERE database = current_database() AND slot_name NOT LIKE 'verdigris\\_%' ORDER BY 1`,
    );
    const { rows: publications } = await session.query<OtherPublication>(OTHER_PUBLICATIONS);
    return [
      ...publications.filter(({ ofAll }) => ofAll).map((publication) => ofAllTables(side, publication)),
      ...slots.map(({ name, plugin, active }): Found => ({
        severity: 'warning',
        object: name,
        message: `somebody else reads ${side} through the slot "${name}" (${plugin ?? 'no plugin'}, ${active ? 'connected' : 'not connected'})${side === 'blue' ? ': it does not move to green by itself' : ''}`,
        remedy:
          side === 'blue'
            ? HAND_OVER
            : 'Drop it if nobody uses it: it keeps WAL, and sends every row that the run brings to green',
      })),
      ...(publications.length === 0
        ? []
        : [
            {
              severity: 'warning',
              object: listed(publications.map(({ name }) => name)),
              message: `${side} has other publications, which are not copied`,
              remedy: 'Make them on green if their subscribers are to follow it',
            } as const,
          ]),
    ];
  },
};
