import { qualified } from '../identifier.js';
import { readMovesBeyondRows, type SequenceMove } from '../sequences-from-rows.js';
import { setPositions } from '../sequences.js';
import type { Session } from '../session.js';
import { recordEvent } from '../state.js';
import type { Patterns } from './inventory.js';

/** How many values sequences skip: green has given out some that blue has never heard of. */
const SEQUENCE_GAP = 1_000;

/**
 * Has blue's sequences go on beyond its rows, which came from a green that can't be asked any more. Where they stood is
 * written down before: `setval` is not undone.
 *
 * @returns the sequences that do not go beyond all of their rows, in words
 */
export async function moveSequences(blue: Session, runId: string, patterns: Patterns): Promise<string[]> {
  const moves = await readMovesBeyondRows(blue, SEQUENCE_GAP, patterns);
  const sequences = moves.map(({ from, to, leaves }) => ({
    name: qualified(from.name),
    ...{ from: from.lastValue.toString(), to: to.lastValue.toString(), leaves: leaves?.toString() },
  }));
  await recordEvent(blue, runId, 'sequences of blue go on beyond its rows', { sequences });
  await setPositions(
    blue,
    moves.map(({ to }) => to),
  );
  return moves.flatMap(leftInWords);
}

function leftInWords({ to, leaves }: SequenceMove): string[] {
  if (leaves === undefined) return [];
  return [`${qualified(to.name)} goes on at ${to.lastValue}: a row has ${leaves}, too far away to have come from it`];
}
