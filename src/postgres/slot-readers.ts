import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import type { Session } from './session.js';
import { readSubscription } from './subscription.js';

/*
 * Slots are named after the migration. So the green of an earlier run of that name, which was away while that run was rolled
 * back and has come back since, takes the slots of this run: its subscription is enabled still. What it is sent never
 * comes here, and a feed that it reads looks as one that is late.
 */

/** A connection that reads from a slot. Source: pg_stat_replication */
export interface SlotReader {
  readonly pid: number;
  /** When it connected: pids are used again. */
  readonly since: string;
  /** IP address; null for a Unix socket. */
  readonly address: string | null;
  /** When it was last heard of, by its own clock; null where that is not known, such as without pg_monitor. */
  readonly repliedAt: string | null;
}

/** Who reads from a slot of this database; undefined while nobody does. */
export async function readSlotReader(source: Session, slot: string): Promise<SlotReader | undefined> {
  const { rows } = await source.query<SlotReader>(
    `SELECT r.pid, r.backend_start::text AS since, host(r.client_addr) AS address, r.reply_time::text AS "repliedAt"
       FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid
      WHERE s.slot_name = $1 AND s.database = current_database()`,
    [slot],
  );
  return rows[0];
}

/** How long after it was heard of a connection must still be there: what a network has kept back comes right before its end. */
const STAYS_MS = 1_000;

/** Looks whether somebody else than the target's subscriptions reads from their slots. */
export class SlotReaders {
  /** By slot: a connection that was there before and after no worker of the target was. */
  readonly #others = new Map<string, SlotReader>();

  constructor(
    private readonly source: Session,
    private readonly target: Session,
    private readonly slots: readonly string[],
  ) {}

  /**
   * A look, while the feed is late. One that was left by a worker of the target, such as by a link that is cut, may hold
   * the slot until wal_sender_timeout: it says nothing any more. So whoever is heard of again is somebody else.
   *
   * @throws VerdigrisError ReplicationBroken
   */
  async refuseOthers(): Promise<void> {
    for (const slot of this.slots) {
      const reader = await readSlotReader(this.source, slot);
      const known = this.#others.get(slot);
      if (isSame(reader, known)) {
        if (reader?.repliedAt === known?.repliedAt) continue;
        await sleep(STAYS_MS);
        if (isSame(await readSlotReader(this.source, slot), known)) throw readByAnother(slot, known);
      }
      this.#others.delete(slot);
      if (reader === undefined || ((await readSubscription(this.target, slot))?.applyPid ?? null) !== null) continue;
      const still = await readSlotReader(this.source, slot);
      if (still !== undefined && isSame(still, reader)) this.#others.set(slot, still);
    }
  }
}

function isSame(one: SlotReader | undefined, other: SlotReader | undefined): other is SlotReader {
  return one !== undefined && one.pid === other?.pid && one.since === other.since;
}

export function describeSlotReader({ pid, since, address }: SlotReader): string {
  return `process ${pid}, from ${address ?? 'a socket of the same machine'}, since ${since}`;
}

export function readByAnother(slot: string, reader: SlotReader): VerdigrisError {
  return new VerdigrisError({
    type: 'ReplicationBroken',
    message: `the slot ${slot} is read by another subscriber (${describeSlotReader(reader)}), and what that is sent never comes to this run's`,
    nextStep: `drop the subscription ${slot} on the server at that address, such as the green of an earlier run of this name (ALTER SUBSCRIPTION ... DISABLE, then SET (slot_name = NONE), then DROP SUBSCRIPTION); start again after the rollback`,
  });
}
