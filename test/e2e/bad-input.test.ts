import { afterEach, describe, it } from 'vitest';
import { closeRefused, isRefused } from '../support/bad-input.js';

/* The others: test/long/bad-input.long.ts. */

afterEach(closeRefused);

describe('bad input gives one clear error with the next step, and nothing is touched', () => {
  it.each(['an unknown connection', 'a wrong password', 'a typo in a table', 'a table without a key'])('%s', isRefused);
});
