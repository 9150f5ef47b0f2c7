import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

const text = readFileSync(new URL('../../docs/verification.md', import.meta.url), 'utf8');
const files = readdirSync(new URL('../faults/', import.meta.url), { recursive: true, encoding: 'utf8' }).filter(
  (name) => name.endsWith('.faults.ts'),
);
/** The first column of the tables of faults. */
const patterns = text
  .split('\n')
  .filter((line) => line.startsWith('| `'))
  .flatMap((line) =>
    [...(line.split('|', 2)[1] ?? '').matchAll(/`([^`]+\.faults\.ts)`/g)].map((match) => match[1] ?? ''),
  );

function matches(pattern: string, file: string): boolean {
  const parts = pattern.split('*').map((part) => part.replaceAll('.', String.raw`\.`));
  return new RegExp(`^${parts.join('[^/]*')}$`).test(file);
}

describe('the tables of faults in docs/verification.md', () => {
  it.each(files)('name %s', (file) => {
    expect(patterns.filter((pattern) => matches(pattern, file))).toHaveLength(1);
  });

  it.each(patterns)('name no file that is not there: %s', (pattern) => {
    expect(files.some((file) => matches(pattern, file))).toBe(true);
  });
});
