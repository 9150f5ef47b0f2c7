/** The seed of the cases that each property is tried on. A number that is set there stands above that of a config. */
export const SEED_VARIABLE = 'VERDIGRIS_TEST_SEED';

/** Of `npm test`: the same cases in each run, so that a rare one that fails is met where somebody looks for it. */
export const FIXED_SEED = 20_261_122;

const DAY_MS = 86_400_000;

/** For configs whose runs look for cases that nobody has met: other ones each day. */
export function seedOfDay(): string {
  return process.env[SEED_VARIABLE] ?? String(Math.floor(Date.now() / DAY_MS));
}
