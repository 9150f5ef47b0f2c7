import { describeKey } from '../migrate/key-range.js';
import { comparePart, type PartOutcome } from './compare-part.js';
import { ENOUGH, LISTED, type Difference } from './difference.js';
import type { Since } from './last-pass.js';
import type { Pace } from './pace.js';
import type { SegmentState } from './pass-progress.js';
import type { SideSessions } from './side-sessions.js';
import { partsOfSegment, rowsOfPart, type TableCut } from './table-cut.js';
import type { TablePair } from './table-pair.js';

/** A run of parts of a table, compared by one lane. */
export interface Segment {
  readonly pair: TablePair;
  readonly cut: TableCut;
  readonly number: number;
  /** Compare only what was written since; undefined for everything. */
  readonly since: Since | undefined;
}

/** Compares a segment from where `from` says that it had got to; `onPart` is told after each part, `done` with the last. */
export async function verifySegment(
  sessions: SideSessions,
  { pair, cut, number, since }: Segment,
  from: SegmentState,
  pace: Pace,
  onPart: (state: SegmentState, done: boolean) => Promise<void>,
): Promise<void> {
  const { end } = partsOfSegment(cut, number);
  let state = from;
  while (state.next < end && state.differingRows < ENOUGH) {
    await pace.leave();
    const started = performance.now();
    const outcome = await comparePart(sessions, pair, rowsOfPart(pair, cut, state.next), since);
    state = added(pair, state, outcome);
    await onPart(state, state.next >= end || state.differingRows >= ENOUGH);
    await pace.rest(performance.now() - started);
  }
}

function added(pair: TablePair, state: SegmentState, outcome: PartOutcome): SegmentState {
  const worded = outcome.differences.map(({ key, kind, columns }): Difference => {
    const row = { table: pair.object, key: describeKey(pair.key, key), kind };
    return columns === undefined ? row : { ...row, columns };
  });
  return {
    next: state.next + 1,
    rows: state.rows + outcome.rows,
    derivedChecked: state.derivedChecked + outcome.derivedChecked,
    differingRows: state.differingRows + worded.length + outcome.unlisted,
    differing: [...state.differing, ...worded].slice(0, LISTED),
  };
}
