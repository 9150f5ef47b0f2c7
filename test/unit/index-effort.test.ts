import { describe, expect, it } from 'vitest';
import { longestFirst, SharedGreen, sizedBuild, type SizedBuild } from '../../src/postgres/migrate/index-effort.js';
import { DEFAULT_INDEX_SETTINGS, whileOffline } from '../../src/postgres/migrate/index-settings.js';

const offline = whileOffline(DEFAULT_INDEX_SETTINGS);

function sized(method: string, bytes: number): SizedBuild {
  const build = { table: { schema: 'public', name: 't' }, name: `${method} ${bytes}`, object: '', searchPath: '' };
  const refused = (): never => {
    throw new Error('nothing is built here');
  };
  return sizedBuild({ ...build, sql: refused, accept: refused, failed: refused }, method, bytes);
}

function lanesOf(builds: readonly SizedBuild[], settings = offline): number {
  return new SharedGreen(builds, settings).settings.parallel;
}

const several = (count: number, method: string, bytes: number): SizedBuild[] =>
  Array.from({ length: count }, () => sized(method, bytes));

describe('indexes that are built while nobody uses green', () => {
  it.each([
    ['as many as the plan says, where all can use parallel workers', several(8, 'btree', 100), 4],
    [
      'one lane beside a GIN index that takes longer than the others',
      [sized('gin', 100), ...several(7, 'btree', 100)],
      2,
    ],
    ['more where the others would take longer than it', [sized('gin', 100), ...several(24, 'btree', 100)], 3],
    ['as many as the plan says, where one process is soon done', [sized('gin', 10), ...several(8, 'btree', 1_000)], 4],
    ['as many as the plan says, where no rows are there', [sized('gin', 0), ...several(8, 'btree', 0)], 4],
    ['one lane beside an index of an unknown method', [sized('hnsw', 100), sized('btree', 100)], 2],
  ])('%s', (_what, builds, lanes) => {
    expect(lanesOf(builds)).toBe(lanes);
  });

  it('never has more lanes than the settings allow', () => {
    expect(lanesOf([sized('gin', 100), sized('btree', 100)], { ...offline, parallel: 1 })).toBe(1);
  });

  it('begins with the longest', () => {
    const builds = [sized('brin', 100), sized('btree', 300), sized('gin', 100), sized('hash', 100)];
    expect(longestFirst(builds).map(({ name }) => name)).toEqual(['gin 100', 'btree 300', 'hash 100', 'brin 100']);
  });
});
