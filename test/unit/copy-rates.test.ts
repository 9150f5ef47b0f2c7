import { describe, expect, it } from 'vitest';
import { TableRates, type CopiedSoFar } from '../../src/postgres/bootstrap/copy-rates.js';

function looking(): (at: number, tables: Record<string, [rows: number, share?: number]>) => Record<string, object> {
  const rates = new TableRates();
  return (at, tables) => {
    const copied = Object.entries(tables).map(
      ([name, [rows, share]]) => [name, { rows, bytes: rows * 10, share }] as [string, CopiedSoFar],
    );
    return Object.fromEntries(rates.look(new Map(copied), at * 1_000));
  };
}

describe('rate and time left of a table', () => {
  it("are by the table's own time, whenever it begins", () => {
    const look = looking();
    look(0, { first: [0, 0], second: [0, 0] });
    expect(look(10, { first: [1_000, 0.5], second: [0, 0] })).toEqual({
      first: { rowsPerSecond: 100, bytesPerSecond: 1_000, etaSeconds: 10 },
      second: { rowsPerSecond: 0, bytesPerSecond: 0, etaSeconds: null },
    });
    look(1_000, { first: [2_000, 1], second: [0, 0] });
    expect(look(1_010, { first: [2_000, 1], second: [1_000, 0.1] })).toMatchObject({
      second: { rowsPerSecond: 100, bytesPerSecond: 1_000, etaSeconds: 90 },
    });
  });

  it('leave out what was there when the watch began', () => {
    const look = looking();
    expect(look(5, { big: [5_000, 0.5] })).toMatchObject({ big: { rowsPerSecond: 0, etaSeconds: null } });
    expect(look(15, { big: [6_000, 0.6] })).toMatchObject({
      big: { rowsPerSecond: 100, bytesPerSecond: 1_000, etaSeconds: 40 },
    });
  });

  it('have no end in sight where the whole is not known', () => {
    const look = looking();
    look(0, {});
    expect(look(2, { big: [100] })).toMatchObject({ big: { rowsPerSecond: 50, etaSeconds: null } });
  });
});
