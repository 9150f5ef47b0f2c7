import { expect, it } from 'vitest';
import { summarized, type PreflightFinding } from '../../src/postgres/preflight/finding.js';

function unlogged(count: number, side: 'blue' | 'green' = 'blue'): PreflightFinding[] {
  return Array.from({ length: count }, (_, i) => ({
    ...{ severity: 'error' as const, check: 'unmoved-rows', side, object: `public.part_${i}` },
    message: `public.part_${i} is an unlogged partition of public.events: its rows are not replicated, and the two sides would differ`,
    remedy: `ALTER TABLE "public"."part_${i}" SET LOGGED, or exclude public.events`,
  }));
}

it('of thousands of findings of a check the first are told one by one, and the rest are named', () => {
  const told = summarized([...unlogged(6_000), ...unlogged(3, 'green')]);
  expect(told).toHaveLength(20 + 1 + 3);
  expect(told[20]).toMatchObject({
    ...{ severity: 'error', check: 'unmoved-rows', side: 'blue' },
    object: expect.stringMatching(/^public\.part_20, public\.part_21, .* and 5972 more$/) as string,
    message: expect.stringContaining('5980 more') as string,
    remedy: expect.stringContaining('`verdigris preflight FILE`') as string,
  });
  expect(JSON.stringify(told).length).toBeLessThan(20_000);
});

it('nothing is said of one more where that one can be told', () => {
  expect(summarized(unlogged(21))).toEqual(unlogged(21));
});

it('findings that are long together, or by themselves, are made to fit', () => {
  const long = { message: `x${'😀'.repeat(5_000)}`, remedy: 'r'.repeat(5_000) };
  const checks = Array.from({ length: 10 }, (_, i) =>
    unlogged(30).map((finding) => ({ ...finding, ...long, check: `check-${i}` })),
  ).flat();
  const told = summarized(checks);
  expect(new Set(told.map(({ check }) => check)).size).toBe(10);
  expect(Buffer.byteLength(JSON.stringify(told))).toBeLessThan(100_000);
  expect(told[0]?.message).toMatch(/^x(😀)+ \.\.\.$/u);
});
