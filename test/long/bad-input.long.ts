import { afterEach, describe, it } from 'vitest';
import { closeRefused, isRefused } from '../support/bad-input.js';

afterEach(closeRefused);

describe('bad input gives one clear error with the next step, and nothing is touched', () => {
  it.each([
    'blue that is green',
    'a green that is not empty',
    'a way back that is gone at once',
    'a down that is missing',
    'a window that never opens',
    'a missing privilege',
  ])('%s', isRefused);
});
