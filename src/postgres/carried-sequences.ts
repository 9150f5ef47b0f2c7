import type { TablePatterns } from './catalog-pattern.js';
import { readMovedSequences } from './catalog-sequences.js';
import { qualified } from './identifier.js';
import { readWithheldSequences } from './sequence-rights.js';
import { commonSequences, readSequenceShapes, type SequenceShape } from './sequences.js';
import type { Session } from './session.js';

/**
 * The sequences that go where the writes go: those that both sides have. Of what the plan leaves out only those that the
 * users of both connections may move: a table that is moved may take its values from one, but nobody was asked for the rights.
 *
 * @param patterns what the plan moves; all when left out
 */
export async function readCarriedSequences(
  from: Session,
  to: Session,
  patterns: TablePatterns | undefined,
): Promise<SequenceShape[]> {
  const common = commonSequences(await readSequenceShapes(from), await readSequenceShapes(to));
  if (patterns === undefined) return common;
  const moved = new Set((await readMovedSequences(from, patterns)).map(qualified));
  const aside = common.flatMap(({ name }) => (moved.has(qualified(name)) ? [] : [name]));
  if (aside.length === 0) return common;
  const withheld = await Promise.all([from, to].map((session) => readWithheldSequences(session, aside)));
  const left = new Set(withheld.flatMap((one) => one?.names ?? []));
  return common.filter(({ name }) => !left.has(qualified(name)));
}
