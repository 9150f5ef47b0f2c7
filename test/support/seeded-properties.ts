import fc from 'fast-check';
import { FIXED_SEED, SEED_VARIABLE } from './property-seed.js';

/* Runs before each test file. A property that fails names the seed, which SEED_VARIABLE takes to try the same cases again. */
fc.configureGlobal({ seed: Number(process.env[SEED_VARIABLE] ?? FIXED_SEED) });
