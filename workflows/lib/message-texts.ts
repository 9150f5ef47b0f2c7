/*
 * How long the texts of a message, and warnings, may be. A run keeps its last 200 of either and gives them back with its result, of which
 * Temporal takes 2 MB: with more, the task that ends the run fails for ever, when everything has been done.
 */

/** Of a message that is followed, characters. Whoever has more to say leads to it. */
export const LONGEST = { by: 100, gate: 100, request: 100, reason: 2_000 } as const;

/** Of one that is ignored, which anybody may send as often as they like: what tells whose it was, and what became of it. */
export const LONGEST_OF_IGNORED = { ...LONGEST, message: 100, reason: 500, why: 2_000 } as const;

/** Of a warning: ten rows that differ have their keys and columns in one. */
export const LONGEST_WARNING = 4_000;

/** Why a message can't be followed whatever the run does: a text that is too long; undefined when none is. */
export function tooLong(payload: unknown): string | undefined {
  if (typeof payload !== 'object' || payload === null) return undefined;
  const texts = payload as Record<string, unknown>;
  const long = Object.entries(LONGEST).flatMap(([field, most]) => {
    const text = texts[field];
    return typeof text === 'string' && text.length > most
      ? [`"${field}" has ${text.length} characters: send ${most} at most`]
      : [];
  });
  return long.length === 0 ? undefined : long.join('; ');
}
