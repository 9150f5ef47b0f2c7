import type { Side } from '../side.js';
import type { Session } from './session.js';

/*
 * How busy the two databases are with the work of others. What is counted:
 *
 *   transactions    commits and rollbacks of the database by pg_stat_database, read-only ones included, as a mean over
 *                   the last seconds, since sessions report theirs about once a second. On green those that replication
 *                   applies are left out, as blue counts the transactions that it has decoded for green's slots, and those
 *                   that the caller says are its own. A handful a second of our other sessions stays in.
 *   sessions        client backends of the database that run a statement now. Ours, walsenders, apply workers and
 *                   autovacuum are left out, and so is who is idle in a transaction.
 */

/** What others do on one side. */
export interface Load {
  readonly transactionsPerSecond: number;
  readonly activeSessions: number;
}

export type Loads = Readonly<Record<Side, Load>>;

/** Rates are means over this time. */
const WINDOW_MS = 5_000;

interface Sample {
  readonly at: number;
  readonly blue: number;
  readonly green: number;
  /** What the servers themselves count, on blue and green: it only falls where it begins anew. */
  readonly counters: readonly [number, number];
}

/**
 * Measures the load of both sides; the first transaction rate is known at the second call. Where a server's statistics begin
 * anew, the rate of before stands until there is another one.
 */
export class LoadMeter {
  private samples: Sample[] = [];
  private begunAt = performance.now();
  private rates: Readonly<Record<Side, number>> = { blue: 0, green: 0 };

  /** @param ownOnGreen how many transactions the caller has made on green so far. */
  constructor(
    private readonly sessions: Readonly<Record<Side, Session>>,
    private readonly ownOnGreen: () => number,
  ) {}

  /** For how long transactions have been counted, ms: since the first call, or since a server counts from nothing. */
  get countedForMs(): number {
    return performance.now() - this.begunAt;
  }

  async measure(): Promise<Loads> {
    const { rows } = await this.sessions.green.query<{ slots: string[] }>(SLOTS);
    const blue = await readCounters(this.sessions.blue, rows[0]?.slots ?? []);
    const green = await readCounters(this.sessions.green, []);
    const now: Sample = {
      at: performance.now(),
      blue: blue.transactions,
      green: green.transactions - blue.decoded - this.ownOnGreen(),
      counters: [blue.transactions, green.transactions],
    };
    const last = this.samples.at(-1);
    // After pg_stat_reset() the difference would be below 0, as if nobody were there.
    const isAnew = last === undefined || now.counters.some((count, side) => count < (last.counters[side] ?? 0));
    if (isAnew) {
      this.samples = [now];
      this.begunAt = now.at;
    } else {
      const recent = this.samples.filter(({ at }) => now.at - at <= WINDOW_MS);
      this.samples = [...recent, now];
      this.rates = ratesBetween(recent[0] ?? last, now) ?? this.rates;
    }
    return {
      blue: { transactionsPerSecond: this.rates.blue, activeSessions: blue.active },
      green: { transactionsPerSecond: this.rates.green, activeSessions: green.active },
    };
  }
}

/** Undefined where no time has passed. */
function ratesBetween(since: Sample, now: Sample): Record<Side, number> | undefined {
  if (now.at === since.at) return undefined;
  const rate = (grown: number): number => Math.max(0, (grown * 1_000) / (now.at - since.at));
  return { blue: rate(now.blue - since.blue), green: rate(now.green - since.green) };
}

interface Counters {
  readonly transactions: number;
  readonly active: number;
  readonly decoded: number;
}

/** The slots on blue from which green is fed. */
const SLOTS = `
  SELECT coalesce(array_agg(subslotname::text), '{}') AS slots FROM pg_catalog.pg_subscription
   WHERE subslotname IS NOT NULL
     AND subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())`;

async function readCounters(session: Session, slots: readonly string[]): Promise<Counters> {
  const { rows } = await session.query<Record<keyof Counters, string>>(
    `SELECT (SELECT xact_commit + xact_rollback FROM pg_catalog.pg_stat_database
              WHERE datname = current_database()) AS transactions,
            (SELECT count(*) FROM pg_catalog.pg_stat_activity
              WHERE datname = current_database() AND backend_type = 'client backend' AND state = 'active'
                AND pid <> pg_backend_pid() AND application_name NOT LIKE 'verdigris %') AS active,
            (SELECT coalesce(sum(total_txns), 0) FROM pg_catalog.pg_stat_replication_slots
              WHERE slot_name = ANY ($1::text[])) AS decoded`,
    [slots],
  );
  const row = rows[0];
  return {
    transactions: Number(row?.transactions ?? 0),
    active: Number(row?.active ?? 0),
    decoded: Number(row?.decoded ?? 0),
  };
}
