import { reasonOf } from '../../failure-text.js';
import type { Side } from '../../side.js';
import { ALL_TABLES, type TablePatterns } from '../catalog-pattern.js';
import { readFenceTriggers, type FencedTable } from './read-fence.js';
import { readReplication, type ReplicationObjects } from './read-replication.js';
import { greenAsItIs, readStandbyTraces, type StandbyTraces } from './read-standby.js';
import { readStateObjects, type StateObjects } from './read-state.js';
import { readStrayObjects, type StrayObjects } from './read-strays.js';
import { majorVersion } from '../retry.js';
import type { Route } from '../state.js';
import { closeSession, openSession, type Database, type Databases, type Session } from '../session.js';

/** Everything of ours that one database holds. */
export interface Inventory extends StateObjects, ReplicationObjects, StrayObjects, StandbyTraces {
  readonly side: Side;
  readonly version: number;
  /** Every table that could have a fence, with the state of it. */
  readonly fence: readonly FencedTable[];
}

/** One side as the doctor found it. */
export type SideFound =
  | { readonly reached: true; readonly inventory: Inventory }
  | {
      readonly reached: false;
      readonly side: Side;
      readonly why: string;
      /** It answers, but is of no concern to the run asked about: the name of the later migration that it belongs to. */
      readonly handedOn?: string;
      /** It answers, but is a physical standby of blue: it takes no writes, and what it shows is blue's. */
      readonly standby?: Pick<StandbyTraces, 'closedByDefault'> & Pick<StrayObjects, 'sessions'>;
    };

/** Both sides. */
export type Found = Readonly<Record<Side, SideFound>>;

/** Which tables the run moves: all where no plan says otherwise. */
export type Patterns = TablePatterns;

/** How the doctor's own sessions begin their purpose: they are not counted among a worker's. */
export const DOCTOR = 'doctor';

/** Looks at both sides. Changes nothing; a side that is away is said to be so. */
export async function examine(databases: Databases, patterns: Patterns = ALL_TABLES): Promise<Found> {
  const [blue, green] = await Promise.all([
    examineSide(databases.blue, databases.green, patterns),
    examineSide(databases.green, databases.blue, patterns),
  ]);
  return { blue, green: await greenAsItIs(databases, blue, green, LOOK) };
}

/** The route of the newest epoch; blue's, which alone has the share of the reads, where both have the same. */
export function routeInForce({ blue, green }: Found): Route | undefined {
  return [blue, green]
    .flatMap((one) => (one.reached && one.inventory.route !== null ? [one.inventory.route] : []))
    .sort((a, b) => b.epoch - a.epoch)[0];
}

/** Nobody answers there: what is on it is not known. */
export function isAway(one: SideFound): boolean {
  return !one.reached && one.handedOn === undefined && one.standby === undefined;
}

async function examineSide(database: Database, other: Database, patterns: Patterns): Promise<SideFound> {
  const { side } = database;
  let session: Session | undefined;
  try {
    session = await openSession(database, LOOK);
    return { reached: true, inventory: await readInventory(session, side, patterns, () => systemOf(other)) };
  } catch (error) {
    return { reached: false, side, why: reasonOf(error) };
  } finally {
    if (session !== undefined) await closeSession(session);
  }
}

/** A server that is frozen must not keep the doctor from telling about the other one. */
const LOOK = { purpose: DOCTOR, statementTimeoutMs: 20_000 } as const;

async function readInventory(
  session: Session,
  side: Side,
  patterns: Patterns,
  otherSystem: () => Promise<Subscriber | null>,
): Promise<Inventory> {
  return {
    side,
    version: await majorVersion(session),
    ...(await readStateObjects(session)),
    ...(await readReplication(session, otherSystem)),
    ...(await readStrayObjects(session)),
    ...(await readStandbyTraces(session)),
    fence: await readFenceTriggers(session, patterns),
  };
}

/** What names the slots of PostgreSQL's own table synchronization: the subscriber's server and its subscriptions. */
export interface Subscriber {
  readonly system: string;
  readonly ours: readonly number[];
  readonly all: readonly number[];
}

async function systemOf(database: Database): Promise<Subscriber | null> {
  try {
    const session = await openSession(database, LOOK);
    try {
      const { rows } = await session.query<Subscriber>(
        `SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system,
                array(SELECT oid::int8::float8 FROM pg_subscription
                       WHERE subname LIKE 'verdigris\\_%'
                         AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())) AS ours,
                array(SELECT oid::int8::float8 FROM pg_subscription) AS all`,
      );
      return rows[0] ?? null;
    } finally {
      await closeSession(session);
    }
  } catch {
    return null;
  }
}
