import { expect, it } from 'vitest';
import { progressLine } from '../../src/progress.js';

const PROGRESS = { step: 'copy', object: 'public.orders', done: 999, total: 1_000, rowsPerSecond: 58_000 };

it.each([
  [0, 'less than 1 s left'],
  [0.4, 'less than 1 s left'],
  [24, '24 s left'],
])('what takes %s s more is told in words that people understand', (etaSeconds, words) => {
  expect(progressLine({ ...PROGRESS, etaSeconds })).toBe(`copy public.orders: 99 % (999 of 1,000), 58,000/s, ${words}`);
});
