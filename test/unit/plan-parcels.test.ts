import { describe, expect, it } from 'vitest';
import { planParcels, type Piece, type SourceTable } from '../../src/postgres/bootstrap/copy/plan-parcels.js';

const MB = 2 ** 20;

function table(name: string, bytes: number, stream = 's'): SourceTable {
  const id = { schema: 'public', name };
  return {
    table: id,
    root: id,
    target: id,
    stream,
    blocks: Math.ceil(bytes / 8192),
    bytes,
    estimatedRows: 0,
    fileNode: 1,
  };
}

function piecesOf(parcels: ReturnType<typeof planParcels>, name: string): Piece[] {
  return parcels
    .flatMap(({ pieces }) => pieces)
    .filter((piece) => piece.source.name === name)
    .sort((a, b) => a.fromBlock - b.fromBlock);
}

describe('the parcels of a copy', () => {
  it('cover every block of a table once, and the last one is open at its end', () => {
    const parcels = planParcels([table('big', 5_000 * MB), table('other', 70 * MB)], 4);
    for (const name of ['big', 'other']) {
      const pieces = piecesOf(parcels, name);
      expect(pieces[0]?.fromBlock).toBe(0);
      for (const [i, piece] of pieces.entries()) expect(piece.toBlock).toBe(pieces[i + 1]?.fromBlock ?? null);
    }
  });

  it('put thousands of small tables into few parcels, each of one stream', () => {
    const tables = Array.from({ length: 2_000 }, (_, i) => table(`t${i}`, i % 5 === 0 ? 0 : 8192, i % 2 ? 'a' : 'b'));
    const parcels = planParcels(tables, 4);
    expect(parcels.length).toBeLessThan(60);
    expect(parcels.length).toBeGreaterThan(4);
    expect(new Set(parcels.flatMap(({ pieces }) => pieces.map(({ source }) => source.name))).size).toBe(2_000);
    for (const { pieces, stream } of parcels) {
      for (const { source } of pieces) expect(Number(source.name.slice(1)) % 2 ? 'a' : 'b').toBe(stream);
    }
  });

  it('are never more than 300, however large the database is', () => {
    for (const parallel of [1, 4, 64]) {
      const terabytes = [
        table('huge', 20_000_000 * MB),
        ...Array.from({ length: 50 }, (_, i) => table(`t${i}`, 900 * MB)),
      ];
      expect(planParcels(terabytes, parallel).length).toBeLessThanOrEqual(300);
    }
  });

  it('are copied in pieces of about 1 GB, each a transaction, however large the database is', () => {
    const GB = 1024 * MB;
    for (const [size, parallel] of [
      [200 * GB, 4],
      [1_000 * GB, 4],
      [1_000 * GB, 64],
      [30_000 * GB, 1],
    ] as const) {
      const parcels = planParcels([table('huge', size), table('large', size / 10), table('small', 300 * MB)], parallel);
      expect(parcels.length).toBeLessThanOrEqual(300);
      const pieces = piecesOf(parcels, 'huge');
      expect(Math.max(...pieces.map(({ bytes }) => bytes))).toBeLessThanOrEqual(1.5 * GB);
      expect(pieces.reduce((sum, { bytes }) => sum + bytes, 0)).toBeCloseTo(size, -5);
      for (const name of ['huge', 'large', 'small']) {
        const own = piecesOf(parcels, name);
        expect(own[0]?.fromBlock).toBe(0);
        const wrong = own.filter(
          ({ fromBlock, toBlock }, i) =>
            toBlock !== (own[i + 1]?.fromBlock ?? null) || (toBlock !== null && toBlock <= fromBlock),
        );
        expect(wrong).toEqual([]);
      }
      for (const { id, pieces: own, label } of parcels) {
        expect(own.map(({ key }) => key)).toEqual(own.map((_, i) => `${id}.${i}`));
        expect(label).not.toContain(' more');
      }
    }
    // Rows out of line: fewer blocks than gigabytes.
    const [wide] = planParcels([{ ...table('wide', 20 * GB), blocks: 3 }], 4);
    expect(wide?.pieces.length).toBe(1);
  });

  it('of a table of 20 million rows are 24, ever smaller, of one piece each', () => {
    const parcels = planParcels([table('orders', 2.9 * 1024 * MB)], 4);
    const large = [371, 325, 284, 249, 218, 190, 167, 146, 128, 112, 98, 85, 75, 65, 57, 50];
    const small = [46, 46, 46, 46, 46, 46, 46, 26];
    expect(parcels.map(({ bytes }) => Math.round(bytes / MB))).toEqual([...large, ...small]);
    expect(parcels.every(({ pieces }) => pieces.length === 1)).toBe(true);
  });

  it('are no larger than a piece, until there would be too many of them', () => {
    const parcels = planParcels([table('huge', 200 * 1024 * MB)], 4);
    expect(Math.max(...parcels.map(({ bytes }) => bytes))).toBeLessThanOrEqual(1.5 * 1024 * MB);
    expect(parcels.every(({ pieces }) => pieces.length === 1)).toBe(true);
  });

  it('go from the largest to the smallest, so that nobody waits long for the last one', () => {
    const parcels = planParcels([table('big', 10_000 * MB)], 4);
    expect(parcels.map(({ bytes }) => bytes)).toEqual([...parcels.map(({ bytes }) => bytes)].sort((a, b) => b - a));
    expect(parcels.at(-1)?.bytes).toBeLessThan((10_000 * MB) / 30);
    expect(parcels.map(({ id }) => id)).toEqual(parcels.map((_, i) => i));
  });

  it('are one for one empty table', () => {
    expect(planParcels([table('empty', 0)], 4)).toMatchObject([{ label: 'public.empty', pieces: [{ toBlock: null }] }]);
    expect(planParcels([], 4)).toEqual([]);
  });
});
