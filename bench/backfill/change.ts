/*
 * What every contender makes of the table: a new column `metadata jsonb NOT NULL`, computed from three others.
 */

/** The value of the new column. */
export const UP = `jsonb_build_object('status', status, 'currency', currency, 'channel', payload::jsonb ->> 'channel')`;

/** What is measured of a contender. */
export interface Prepared {
  /** Beside the application. */
  readonly beside: () => Promise<void>;
  /** What an application that writes as before has to be gone for: its time counts, too. */
  readonly after?: () => Promise<void>;
}
