import type { TableName } from '../plan/table-name.js';
import type { Side } from '../side.js';
import type { TablePatterns } from './catalog-pattern.js';
import type { Tries } from './ended-tries.js';
import type { FeedLeftBehind } from './forced-way-back.js';
import { promotionBlocked } from './hold.js';
import type { PartitionFile } from './partition-files.js';
import type { Pools, Unreleased } from './pools.js';
import type { KnownServer } from './server-position.js';
import type { Databases, Session } from './session.js';
import type { Since } from './verify/last-pass.js';

/* What a promotion is asked for, and what it answers: promote.ts. */

export interface Promotion {
  readonly databases: Databases;
  readonly migration: string;
  /** The side that gives writes away; the other one takes them. */
  readonly from: Side;
  /** The epoch in which it was asked for; a worker that wakes up in a later one moves nothing. Default: any. */
  readonly epoch?: number | undefined;
  /** Those that it is tried by, so that none moves anything once the run has ended them. Default: nobody ends them. */
  readonly tries?: Tries | undefined;
  /** Tables whose fence must be in force on `from`. */
  readonly fenced: readonly TableName[];
  /** Every table (oid) that was there when the fence was armed: a new one in the hold stops the try. */
  readonly knownTables: readonly number[];
  /** The partitions of `from` with the files of which rows were compared: another file stops the try. Default: any. */
  readonly comparedPartitions?: readonly PartitionFile[] | undefined;
  /** The servers on which rows were compared: another one stops the try. Default: any. */
  readonly comparedOn?: Since | undefined;
  /**
   * The same where no comparison tells the servers: asked at the begin of each try, on the sessions of its hold; what it
   * throws ends the try. Default: nothing
   */
  readonly refuseOthers?: ((old: Session, to: Session) => Promise<void>) | undefined;
  /** What the plan moves: a new table that it leaves out stops nothing. Default: all. */
  readonly patterns?: TablePatterns | undefined;
  /** When it is too late to begin a hold. What is decided is finished. Default: never. */
  readonly notAfter?: NotAfter | undefined;
  /** Longest time that writes wait in one try, ms. */
  readonly maxHoldMs: number;
  readonly sequenceGap: number;
  /** Whether the old side is to follow the new one afterwards: the slot for it is made in the hold. */
  readonly feedBack: boolean;
  /**
   * Only for a way back whose feed is dead, and only when a person has accepted it: what the new side does not have stays
   * behind. Everything else is as always: never are both sides open.
   */
  readonly acceptLoss?: boolean | undefined;
  /** Only with it: the feed to the new side, which must have ended when writers are asked to wait. Default: it has. */
  readonly feedLeftBehind?: FeedLeftBehind | undefined;
  /** Done right before writers are asked to wait; what it throws ends the try. Default: nothing. */
  readonly lastLook?: (() => Promise<void>) | undefined;
  /**
   * The server of the new side as it was when that was decided which is only to be opened: another one may lack rows, and is
   * not opened by us. Asked of its own records, if it has them; undefined where nothing is known. Default: any server
   */
  readonly decidedFor?: ((to: Session) => Promise<KnownServer | undefined>) | undefined;
  /** Poolers between applications and the databases: paused for the hold, then led to the new side. Default: none. */
  readonly pools?: Pools | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface NotAfter {
  /** performance.now(), which nobody sets: a worker's clock may be hours off. */
  readonly at: number;
  /** The same for people, ISO 8601. */
  readonly told: string;
}

export interface PromotionTry extends Promotion {
  /** How long to ask for the fence's lock in this try, ms: short, so that we are always the victim of a deadlock. */
  readonly lockTimeoutMs: number;
}

export interface Promoted {
  /** From asking for the lock to the new side being open, ms; null when another worker had done the first part. */
  readonly holdMs: number | null;
  /** What each step took of the hold, ms, in their order. */
  readonly steps: Readonly<Record<string, number>>;
  readonly epoch: number;
  /** Poolers that are not led to the new side yet: release() again until none is left. */
  readonly unreleased: readonly Unreleased[];
}

export function isLate({ notAfter }: Pick<Promotion, 'notAfter'>): boolean {
  return notAfter !== undefined && performance.now() > notAfter.at;
}

/**
 * Only for what has not been decided.
 *
 * @throws VerdigrisError PromotionBlocked when a hold may not begin any more
 */
export function refuseLate(promotion: Pick<Promotion, 'notAfter'>): void {
  const { notAfter } = promotion;
  if (notAfter === undefined || !isLate(promotion)) return;
  throw promotionBlocked(
    `it could not begin before ${notAfter.told}, when its window, its approval or its tries ended: was a server away?`,
  );
}
