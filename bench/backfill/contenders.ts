/** Rows on blue and on green, the application on blue, green follows it and is filled: what a run does. */
export const AS_A_RUN = 'Verdigris, as a run does it';
/** The harder case, which no run has: rows are locked that the application wants. */
export const IN_PLACE = 'Verdigris, application on the table that is filled';

export const CONTENDERS = [AS_A_RUN, IN_PLACE, 'plain UPDATE', 'pgroll'] as const;
export type BackfillContender = (typeof CONTENDERS)[number];

/** Whether it is Verdigris itself, whose mistakes fail the command. */
export function isOwn(contender: string): boolean {
  return contender === AS_A_RUN || contender === IN_PLACE;
}
