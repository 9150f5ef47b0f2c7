import { createHash } from 'node:crypto';
import { forgetProgress, readProgress, writeProgress, type ProgressKey } from '../migrate/progress-row.js';
import { WAL_POSITION, whyReplaced, type ServerPosition } from '../server-position.js';
import { withSession, type Session } from '../session.js';
import { systemIdentifier } from '../system-identifier.js';
import { OLDEST_TOLD_AGE } from '../transaction-age.js';
import type { Side } from '../../side.js';
import type { Sides } from './side-sessions.js';
import type { TablePair } from './table-pair.js';

/*
 * When the last pass that found no difference began, on either side: what was written before has been compared. It is
 * kept on green, whichever side is written.
 */

/**
 * A moment in the life of a server: every transaction below is over, and what it wrote is visible. One that has replaced it
 * may lack what was compared. An earlier version has written down less.
 */
export interface Moment {
  /** pg_snapshot_xmin, with its epoch, as text. */
  readonly xid: string;
  readonly timeline: string;
  readonly system?: string;
  readonly lsn?: string;
  /** When its postmaster was started, seconds since 1970: one that is put back in its place has been started anew. */
  readonly started?: string;
}

/** The same, with all that is known now. */
export type MomentNow = Moment & ServerPosition & Required<Pick<Moment, 'started'>>;

/** Where a comparison of changed rows begins. */
export type Since = Readonly<Record<Side, Moment>>;

/** The last pass: when it began, and what it compared. */
export interface LastPass {
  /** Blue knows it as well (`knowsPass`). An earlier version has given none. */
  readonly id?: string;
  readonly began: Since;
  readonly tables: Readonly<Record<string, Fingerprint>>;
}

export async function momentOf(session: Session): Promise<MomentNow> {
  const system = (await systemIdentifier(session)) ?? '';
  const { rows } = await session.query<Omit<MomentNow, 'system'>>(
    `SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS xid,
            extract(epoch FROM pg_postmaster_start_time())::text AS started, ${WAL_POSITION}`,
  );
  return { system, xid: '0', started: '', timeline: '', lsn: '0/0', ...rows[0] };
}

/** Whether what was written on a side after `then` can be told from its rows. */
export function canTellSince(side: Side, then: Moment, now: MomentNow): boolean {
  const age = BigInt(now.xid) - BigInt(then.xid);
  return whyReplaced(side, then, now) === undefined && age >= 0n && age < OLDEST_TOLD_AGE;
}

/** Why what was compared then says nothing of the servers that are there now; undefined where they are the same. */
export function whyOthers(then: Since, now: Readonly<Record<Side, ServerPosition>>): string | undefined {
  return whyReplaced('blue', then.blue, now.blue) ?? whyReplaced('green', then.green, now.green);
}

/**
 * Which side was started anew since `then`; undefined where none was, or where that was not written down. What is put back from
 * a copy of its volume has the same system and timeline, and its WAL may have grown beyond its place of then.
 */
export function whoRestarted(then: Since, now: Readonly<Record<Side, MomentNow>>): Side | undefined {
  return (['blue', 'green'] as const).find(
    (side) => then[side].started !== undefined && then[side].started !== now[side].started,
  );
}

/** How a table was compared: what its rows were compared by, and what its derived columns were held against. */
export interface Fingerprint {
  readonly columns: string;
  readonly checks: string;
}

export function fingerprint(pair: TablePair): Fingerprint {
  return {
    columns: digest([pair.columns, pair.rowHash]),
    checks: digest(pair.checks.map(({ condition }) => condition)),
  };
}

function digest(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('base64url').slice(0, 16);
}

/** Whether the last pass has compared at least what this one would; else all rows have to be, changed or not. */
export function isCoveredBy(last: LastPass, pair: TablePair): boolean {
  const [before, now] = [last.tables[pair.object], fingerprint(pair)];
  return before?.columns === now.columns && (pair.checks.length === 0 || before.checks === now.checks);
}

/** Runs `work` on green, whichever side is written. */
export function onGreen<T>({ source, target }: Sides, work: (green: Session) => Promise<T>): Promise<T> {
  return withSession(source.side === 'green' ? source : target, { purpose: 'verify progress' }, work);
}

function keyOf(runId: string): ProgressKey {
  return { runId, step: 'verified', object: 'all tables' };
}

export async function readLastPass(green: Session, runId: string): Promise<LastPass | undefined> {
  return (await readProgress<LastPass>(green, keyOf(runId)))?.state;
}

export async function writeLastPass(green: Session, runId: string, pass: LastPass): Promise<void> {
  await writeProgress(green, keyOf(runId), pass, true);
}

/** Passes that a blue knows, the latest first: one that was put back from what is older knows less. */
interface KnownPasses {
  readonly ids: readonly string[];
}

/** Written on blue as a pass begins, and once more as it ends: in between may lie a restore. */
export type PassPoint = 'pass begun' | 'pass ended';

function pointOf(runId: string, object: PassPoint): ProgressKey {
  return { runId, step: 'verified', object };
}

/**
 * Writes on blue that a pass has come so far. The one before stays known: whoever is stopped between this and what green notes
 * builds on that one still.
 */
export async function notePass(blue: Session, runId: string, point: PassPoint, id: string): Promise<void> {
  const known = (await readProgress<KnownPasses>(blue, pointOf(runId, point)))?.state.ids ?? [];
  const ids = [id, ...known.filter((other) => other !== id)].slice(0, 2);
  await writeProgress(blue, pointOf(runId, point), { ids } satisfies KnownPasses, true);
}

/** Whether blue has what it had then. An earlier version has given no id, and is believed. */
export async function knowsPass(blue: Session, runId: string, point: PassPoint, id = ''): Promise<boolean> {
  if (id === '') return true;
  return (await readProgress<KnownPasses>(blue, pointOf(runId, point)))?.state.ids.includes(id) ?? false;
}

/** After a pass that found differences: they may be in rows that nobody writes any more. */
export async function forgetLastPass(green: Session, runId: string): Promise<void> {
  await forgetProgress(green, keyOf(runId));
}
