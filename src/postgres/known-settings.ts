import { literal } from './identifier.js';

/**
 * An item of FROM: a row with the `name` of each of these settings that this version of the server knows. The view
 * pg_settings says the same, but writes out all of the server's settings for it: a millisecond of its processor at the
 * beginning of each session of ours.
 */
export function knownSettings(names: readonly string[]): string {
  return `(SELECT name FROM pg_catalog.unnest(ARRAY[${names.map(literal).join(', ')}]) AS name
            WHERE pg_catalog.current_setting(name, true) IS NOT NULL) AS known`;
}
