import { expect, it } from 'vitest';
import { together } from '../../src/timing.js';

it('two things that were begun together are over when one has failed, and the first error is told', async () => {
  let over = false;
  const late = new Promise<string>((resolve) => setTimeout(() => resolve('late'), 20)).finally(() => (over = true));
  await expect(together(Promise.reject(new Error('first')), late)).rejects.toThrow('first');
  expect(over).toBe(true);
  const failing = (what: string, ms: number): Promise<never> =>
    new Promise((_, reject) => setTimeout(() => reject(new Error(what)), ms));
  await expect(together(failing('first', 20), failing('other', 1))).rejects.toThrow('first');
  expect(await together(Promise.resolve(1), late)).toEqual([1, 'late']);
});
