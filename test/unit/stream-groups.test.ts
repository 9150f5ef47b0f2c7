import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { TableName } from '../../src/plan/table-name.js';
import { describeHeldTransactions, judgeRetainedWal, retainedWalExceeded } from '../../src/postgres/retained-wal.js';
import { spreadTables } from '../../src/postgres/stream-groups.js';
import { streamNames } from '../../src/postgres/streams.js';

const table = (n: number): TableName => ({ schema: 'shop', name: `t${n}` });

/** Tables with sizes, links among them and to tables that are not moved, and a number of streams. */
const inputs = fc.integer({ min: 0, max: 30 }).chain((count) =>
  fc.record({
    tables: fc
      .array(fc.integer({ min: 0, max: 1_000 }), { minLength: count, maxLength: count })
      .map((sizes) => sizes.map((bytes, i) => ({ table: table(i), bytes }))),
    links: fc.array(fc.tuple(fc.nat(35), fc.nat(35)), { maxLength: 20 }),
    streams: fc.integer({ min: 1, max: 16 }),
  }),
);

describe('tables are spread over streams', () => {
  it('each exactly once, in groups closed under foreign keys, over as many streams as there are', () => {
    fc.assert(
      fc.property(inputs, ({ tables, links, streams }) => {
        const spread = spreadTables(
          tables,
          links.map(([a, b]) => [table(a), table(b)]),
          streams,
        );
        expect(spread).toHaveLength(streams);
        const streamOf = new Map(spread.flatMap((own, i) => own.map(({ name }) => [name, i])));
        expect(
          spread
            .flat()
            .map(({ name }) => name)
            .sort(),
        ).toEqual(tables.map((one) => one.table.name).sort());
        for (const [a, b] of links) {
          if (a >= tables.length || b >= tables.length) continue;
          expect(streamOf.get(`t${a}`)).toBe(streamOf.get(`t${b}`));
        }
      }),
    );
  });

  it('the same input gives the same streams, whatever its order', () => {
    fc.assert(
      fc.property(inputs, ({ tables, links, streams }) => {
        const named = links.map(([a, b]) => [table(a), table(b)] as const);
        const once = spreadTables(tables, named, streams);
        expect(spreadTables([...tables].reverse(), [...named].reverse(), streams)).toEqual(once);
      }),
    );
  });

  it('no stream is empty while another has two groups, and none has more than the least plus its own largest group', () => {
    fc.assert(
      fc.property(inputs, ({ tables, streams }) => {
        const bytes = new Map(tables.map((one) => [one.table.name, one.bytes + 1]));
        const load = (own: TableName[]): number => own.reduce((sum, { name }) => sum + (bytes.get(name) ?? 0), 0);
        const spread = spreadTables(
          tables.map((one) => ({ ...one, bytes: one.bytes + 1 })),
          [],
          streams,
        );
        const least = Math.min(...spread.map(load));
        for (const own of spread) {
          if (own.length < 2) continue;
          expect(least).toBeGreaterThan(0);
          const smallest = Math.min(...own.map(({ name }) => bytes.get(name) ?? 0));
          expect(load(own) - smallest).toBeLessThanOrEqual(least);
        }
      }),
    );
  });

  it('tables that are empty so far are spread by their number', () => {
    const tables = [0, 1, 2, 3].map((n) => ({ table: table(n), bytes: 0 }));
    expect(spreadTables(tables, [], 2).map((own) => own.length)).toEqual([2, 2]);
  });

  it('thousands of tables that all refer to the same one are one group in no time', () => {
    const tables = Array.from({ length: 20_000 }, (_, n) => ({ table: table(n), bytes: n }));
    const links = tables.slice(1).map((one) => [one.table, table(0)] as const);
    const began = performance.now();
    expect(spreadTables(tables, links, 2).map((own) => own.length)).toEqual([20_000, 0]);
    expect(performance.now() - began).toBeLessThan(10_000);
  });

  it('tables that streams have already stay there and draw those that a link binds to them', () => {
    const tables = [0, 1, 2, 3].map((n) => ({ table: table(n), bytes: 10 }));
    const taken = [{ tables: [table(0), table(1)] }, { tables: [table(2)] }];
    const spread = spreadTables(tables, [[table(3), table(1)]], 2, taken);
    expect(spread).toEqual([[table(0), table(1), table(3)], [table(2)]]);
  });
});

it('the first stream of a feed has the name of the feed, and all names fit', () => {
  expect(streamNames('a-b', 'to_green', 3)).toEqual([
    'verdigris_a_b_to_green',
    'verdigris_a_b_to_green_2',
    'verdigris_a_b_to_green_3',
  ]);
  const longest = streamNames('x'.repeat(40), 'to_green', 16);
  expect(Math.max(...longest.map((name) => name.length))).toBeLessThan(64);
});

it('retained WAL warns at half of the limit, holds at four fifths, gives up at the limit', () => {
  const verdicts = [0, 49, 50, 79, 80, 99, 100, 500].map((bytes) => judgeRetainedWal({ bytes, transactions: 0 }, 100));
  expect(verdicts).toEqual(['fine', 'fine', 'warn', 'warn', 'hold', 'hold', 'abort', 'abort']);
});

it('transactions that no vacuum may freeze warn from a thousand million on, and give up while a server still takes writes', () => {
  const verdicts = [0, 999_999_999, 1e9, 1_799_999_999, 1.8e9].map((transactions) =>
    judgeRetainedWal({ bytes: 0, transactions }, 100),
  );
  expect(verdicts).toEqual(['fine', 'fine', 'warn', 'warn', 'abort']);
  expect(judgeRetainedWal({ bytes: 80, transactions: 1e9 }, 100)).toBe('hold');
  const wal = { bytes: 0, transactions: 1_812_345_678, walStatus: 'reserved', slots: 1 };
  expect(retainedWalExceeded('f', wal, 100).message).toMatch(/last 1,812 million transactions: at 2,147 million/);
  expect(describeHeldTransactions('blue', wal, 100, 'it ends')).toMatch(
    /^keeps vacuum on blue .* at 1,800 million it ends/,
  );
  expect(describeHeldTransactions('blue', { ...wal, bytes: 60 }, 100, 'it ends')).toBeUndefined();
});
