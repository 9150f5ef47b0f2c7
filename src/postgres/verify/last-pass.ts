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
 * may lack what was compared. An earlier version has written down nothing but its timeline.
 */
export interface Moment {
  /** pg_snapshot_xmin, with its epoch, as text. */
  readonly xid: string;
  readonly timeline: string;
  readonly system?: string;
  readonly lsn?: string;
}

/** The same, with all that is known now. */
export type MomentNow = Moment & ServerPosition;

/** Where a comparison of changed rows begins. */
export type Since = Readonly<Record<Side, Moment>>;

/** The last pass: when it began, and what it compared. */
export interface LastPass {
  readonly began: Since;
  readonly tables: Readonly<Record<string, Fingerprint>>;
}

export async function momentOf(session: Session): Promise<MomentNow> {
  const system = (await systemIdentifier(session)) ?? '';
  const { rows } = await session.query<Omit<MomentNow, 'system'>>(
    `SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS xid, ${WAL_POSITION}`,
  );
  return { system, xid: '0', timeline: '', lsn: '0/0', ...rows[0] };
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

/** After a pass that found differences: they may be in rows that nobody writes any more. */
export async function forgetLastPass(green: Session, runId: string): Promise<void> {
  await forgetProgress(green, keyOf(runId));
}
