import type { TableName } from '../plan/table-name.js';
import { qualified } from './identifier.js';
import { inPieces, LOCKED_AT_ONCE } from './sequence-pieces.js';
import type { SequencePosition } from './sequences.js';
import type { Session } from './session.js';

/*
 * pg_sequence_last_value() tells nothing of a sequence that has given no value yet: only the sequence itself has what
 * `setval(..., false)` or RESTART has made of it. To read thousands of them takes as many scans, and a plan for these, which
 * takes longer than the scans. So what is to be read while writers wait is planned before.
 */

/** A sequence of a list. */
export interface Listed {
  /** Its place in the list. */
  readonly i: number;
  readonly name: TableName;
}

/** Where one of them stands. */
export interface ListedPosition extends Omit<SequencePosition, 'name'> {
  readonly i: number;
}

/** A prepared statement of a session that tells which of some sequences stand elsewhere than they are known to. */
export interface PlannedRead {
  readonly statement: string;
  readonly known: readonly ListedPosition[];
}

/** Reads sequences in as many round trips as there are plans to make. */
export async function readUncalled(session: Session, sequences: readonly Listed[]): Promise<ListedPosition[]> {
  const found: ListedPosition[] = [];
  for (const { some } of inPieces(sequences, PLANNED_AT_ONCE)) {
    const { rows } = await session.query<PositionRow>(unionOf(some));
    found.push(...rows.map(positionOf));
  }
  return found;
}

/**
 * Plans the same for readPlanned(), some thousand in one round trip. Once on a session.
 *
 * @param known where they stand
 */
export async function planUncalled(
  session: Session,
  known: readonly (Listed & ListedPosition)[],
): Promise<PlannedRead[]> {
  const planned = inPieces(known, PLANNED_AT_ONCE).map(({ some }, n) => ({
    statement: `verdigris_uncalled_${n}`,
    known: some,
  }));
  for (const { some } of inPieces(planned, STATEMENTS_AT_ONCE)) {
    // The plan is made when the statement is carried out first.
    const message = some.map(
      (one) => `PREPARE ${one.statement} AS ${unionOf(one.known, isMoved)}; EXECUTE ${one.statement}`,
    );
    await session.query(message.join('; '));
  }
  return planned;
}

function isMoved({ lastValue }: ListedPosition): string {
  return ` WHERE is_called OR last_value <> ${lastValue}`;
}

/** Carries out what was planned, some thousand sequences in one round trip. Names are looked up anew where something has been changed since. */
export async function readPlanned(session: Session, planned: readonly PlannedRead[]): Promise<ListedPosition[]> {
  const moved: ListedPosition[] = [];
  for (const { some } of inPieces(planned, STATEMENTS_AT_ONCE)) {
    const answers: unknown = await session.query(some.map(({ statement }) => `EXECUTE ${statement}`).join('; '));
    // With one statement in the message, node-postgres answers with no list.
    const results = (Array.isArray(answers) ? answers : [answers]) as { readonly rows: readonly PositionRow[] }[];
    moved.push(...results.flatMap(({ rows }) => rows.map(positionOf)));
  }
  // The last one of a sequence counts.
  return [...planned.flatMap(({ known }) => known), ...moved];
}

interface PositionRow {
  readonly i: number;
  readonly last_value: string;
  readonly is_called: boolean;
}

function positionOf({ i, last_value, is_called }: PositionRow): ListedPosition {
  return { i, lastValue: BigInt(last_value), isCalled: is_called };
}

function unionOf<T extends Listed>(sequences: readonly T[], where: (sequence: T) => string = () => ''): string {
  return sequences
    .map((one) => `SELECT ${one.i} AS i, last_value::text, is_called FROM ${qualified(one.name)}${where(one)}`)
    .join(' UNION ALL ');
}

/** The time that a query of many sequences takes to plan grows with the square of their number: 3.6 s for 2,000. */
const PLANNED_AT_ONCE = 30;

/** In one message, which is one transaction. */
const STATEMENTS_AT_ONCE = Math.floor(LOCKED_AT_ONCE / PLANNED_AT_ONCE);
