import { setTimeout as sleep } from 'node:timers/promises';
import { ident, literal } from '../../src/postgres/identifier.js';
import { closeSession, openSession, type Databases, type Session } from '../../src/postgres/session.js';
import { otherSide, type Side } from '../../src/side.js';
import { now } from './clock.js';
import type { Load } from './load.js';
import type { Move } from './move.js';
import { SHOP_ROLE, SHOP_TABLES } from './shop.js';

/*
 * The manual recipe, the way that pg_easy_replicate switches: the application's role is read-only by default from now
 * on, its sessions are ended, the replica has everything, sequences are set, the application is pointed at the other
 * side. It does here what a person can do at best: no pause between two steps, and the replica is looked at every 5 ms
 * (that tool: 200 ms). Beside it a slot for the way back, which that tool does not make: without one nothing that is
 * written later could ever go back.
 */

const SEQUENCE = 'public.payments_id_seq';

/** Sessions of a person on both sides, and the first copy of the rows. */
export class ByHand {
  private constructor(
    private readonly sessions: Readonly<Record<Side, Session>>,
    private readonly databases: Databases,
  ) {}

  static async begin(databases: Databases, signal: AbortSignal): Promise<ByHand> {
    const sessions = {
      blue: await openSession(databases.blue, { purpose: 'by hand' }),
      green: await openSession(databases.green, { purpose: 'by hand' }),
    };
    const hand = new ByHand(sessions, databases);
    const tables = SHOP_TABLES.map((table) => `public.${table}`).join(', ');
    for (const side of ['blue', 'green'] as const) {
      await sessions[side].query(`CREATE PUBLICATION ${feed(side)} FOR TABLE ${tables}`);
    }
    await hand.makeSlot('blue');
    await hand.subscribe('green', true);
    for (let ready = false; !ready;) {
      signal.throwIfAborted();
      await sleep(100);
      const { rows } = await sessions.green.query<{ ready: boolean }>(
        "SELECT count(*) > 0 AND bool_and(srsubstate = 'r') AS ready FROM pg_subscription_rel",
      );
      ready = rows[0]?.ready ?? false;
    }
    await sessions.green.query('ANALYZE');
    return hand;
  }

  /** Moves the writes, and the application with them. */
  async move(from: Side, load: Load, signal: AbortSignal): Promise<Move> {
    const to = otherSide(from);
    const [old, next] = [this.sessions[from], this.sessions[to]];
    const began = now();
    const steps: Record<string, number> = {};
    const step = async (name: string, work: () => Promise<unknown>): Promise<void> => {
      const at = now();
      await work();
      steps[name] = now() - at;
    };
    await step('read-only', () => old.query(`ALTER ROLE ${SHOP_ROLE} SET default_transaction_read_only = on`));
    await step('terminate', () => terminate(old));
    await step('lag', () => this.waitForLag(from, signal));
    await step('sequences', () => this.carrySequenceOver(from));
    await step('slot', () => this.makeSlot(to));
    await step('open', async () => {
      await next.query(`ALTER ROLE ${SHOP_ROLE} RESET default_transaction_read_only`);
      await load.use(to);
    });
    const opened = now();
    await this.endFeed(from);
    await this.subscribe(from, false);
    await this.waitForLag(to, signal);
    return {
      ...{ from, began, tried: began, opened, followed: now(), holdMs: opened - began, steps },
      ...{ tries: 1, blocked: [] },
    };
  }

  /** Until the other side has everything that this one had written by now. */
  async waitForLag(from: Side, signal: AbortSignal): Promise<void> {
    const session = this.sessions[from];
    const { rows } = await session.query<{ lsn: string }>('SELECT pg_current_wal_lsn() AS lsn');
    for (;;) {
      signal.throwIfAborted();
      const { rowCount } = await session.query(
        'SELECT FROM pg_stat_replication WHERE application_name = $1 AND replay_lsn >= $2::pg_lsn',
        [feed(from), rows[0]?.lsn],
      );
      if (rowCount === 1) return;
      await sleep(5);
    }
  }

  private async carrySequenceOver(from: Side): Promise<void> {
    const { rows } = await this.sessions[from].query<{ last: string }>(`SELECT last_value AS last FROM ${SEQUENCE}`);
    await this.sessions[otherSide(from)].query('SELECT setval($1, $2::bigint + 1000)', [SEQUENCE, rows[0]?.last]);
  }

  private async makeSlot(side: Side): Promise<void> {
    await this.sessions[side].query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [feed(side)]);
  }

  private async subscribe(side: Side, copyData: boolean): Promise<void> {
    const source = otherSide(side);
    await this.sessions[side].query(
      `CREATE SUBSCRIPTION ${ident(feed(source))} CONNECTION ${literal(this.databases[source].peerConninfo)}
       PUBLICATION ${ident(feed(source))} WITH (create_slot = false, copy_data = ${copyData})`,
    );
  }

  /** Ends the feed away from a side, before the one towards it begins. */
  private async endFeed(from: Side): Promise<void> {
    await this.sessions[otherSide(from)].query(`DROP SUBSCRIPTION ${ident(feed(from))}`);
  }

  /** The side that has lost its writes may be written again by whoever looks at it. */
  async end(): Promise<void> {
    for (const side of ['blue', 'green'] as const) {
      await this.sessions[side].query(`ALTER ROLE ${SHOP_ROLE} RESET default_transaction_read_only`);
      await closeSession(this.sessions[side]);
    }
  }
}

/** The feed away from a side: publication, slot and subscription have one name. */
function feed(from: Side): string {
  return `by_hand_from_${from}`;
}

/** Ends the application's sessions; those that it opens now are read-only, so only these are waited for. */
async function terminate(session: Session): Promise<void> {
  const { rows } = await session.query<{ pids: number[] }>(
    `SELECT coalesce(array_agg(pid) FILTER (WHERE pg_terminate_backend(pid)), '{}') AS pids
       FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()`,
    [SHOP_ROLE],
  );
  for (let left = 1; left > 0;) {
    const gone = await session.query('SELECT FROM pg_stat_activity WHERE pid = ANY ($1)', [rows[0]?.pids ?? []]);
    left = gone.rowCount ?? 0;
    if (left > 0) await sleep(1);
  }
}
