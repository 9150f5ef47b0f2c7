import { formatTableName, type TableName } from '../../../plan/table-name.js';

/*
 * How the rows are cut into parcels. A parcel is copied by one activity: a range of blocks of a large table, or many
 * small tables. Large parcels come first and the later ones are ever smaller, so that the workers end at about the same
 * time (guided self-scheduling: Polychronopoulos and Kuck, 1987).
 */

/** A table that holds rows on blue: an ordinary one or a leaf. */
export interface SourceTable {
  readonly table: TableName;
  /** What is published: the table itself or its topmost parent. */
  readonly root: TableName;
  /** Where its rows go on green: itself, or the root where green is partitioned otherwise. */
  readonly target: TableName;
  readonly stream: string;
  /** Blocks of the table itself, without TOAST. */
  readonly blocks: number;
  /** With TOAST, without indexes. */
  readonly bytes: number;
  /** As of the last ANALYZE; 0 when there was none. */
  readonly estimatedRows: number;
  /** pg_relation_filenode: another one after a rewrite, which moves rows to other blocks. */
  readonly fileNode: number;
}

/** What is copied in one transaction: some blocks of one table, about 1 GB at most. */
export interface Piece {
  /** Name of its row in verdigris.progress. */
  readonly key: string;
  readonly source: TableName;
  readonly root: TableName;
  readonly target: TableName;
  readonly fileNode: number;
  readonly fromBlock: number;
  /** Not included; null = to the end, wherever that is by then. */
  readonly toBlock: number | null;
  readonly bytes: number;
  readonly estimatedRows: number;
}

export interface Parcel {
  readonly id: number;
  readonly label: string;
  readonly bytes: number;
  /** All its pieces read one snapshot, the one of this stream. */
  readonly stream: string;
  readonly pieces: readonly Piece[];
}

/** A parcel below this is not worth an activity of its own, with its sessions on both sides. */
const MIN_PARCEL_BYTES = 32 * 2 ** 20;
/**
 * What is being copied when a session ends is copied again from its start, and leaves dead rows on green: not more than about
 * this. A parcel that has to be larger, or there were too many, has several pieces of a table.
 */
const MAX_PIECE_BYTES = 1_024 * 2 ** 20;
/** Each parcel is a few events of the workflow's history. */
const MAX_PARCELS = 280;
/** The statements around a table take as long as so many bytes of rows. */
const TABLE_BYTES = 256 * 2 ** 10;

interface Cut extends Omit<Piece, 'key'> {
  readonly stream: string;
  readonly blocks: number;
  readonly whole: boolean;
  readonly weight: number;
}

/** Cuts tables into parcels for `parallel` copies at once: largest first. Pure. */
export function planParcels(tables: readonly SourceTable[], parallel: number): Parcel[] {
  const weight = (table: SourceTable): number => table.bytes + TABLE_BYTES;
  const sorted = [...tables].sort((a, b) => b.bytes - a.bytes);
  const total = sorted.reduce((sum, table) => sum + weight(table), 0);
  const even = Math.min(total / (parallel * 16), MAX_PIECE_BYTES);
  const smallest = Math.max(MIN_PARCEL_BYTES, even, total / MAX_PARCELS);
  const largest = Math.max(MAX_PIECE_BYTES, smallest);
  let remaining = total;
  const wanted = (): number => Math.min(largest, Math.max(smallest, remaining / (parallel * 2)));
  const groups: Cut[][] = [];
  const open = new Map<string, Cut[]>();
  for (const table of sorted) {
    for (const cut of cutTable(table, wanted)) {
      remaining -= cut.weight;
      if (!cut.whole || cut.weight >= wanted()) {
        groups.push([cut]);
        continue;
      }
      const bundle = open.get(cut.stream) ?? [];
      open.set(cut.stream, bundle);
      bundle.push(cut);
      if (weightOf(bundle) >= wanted()) {
        groups.push(bundle);
        open.delete(cut.stream);
      }
    }
  }
  groups.push(...open.values());
  return groups.sort((a, b) => weightOf(b) - weightOf(a)).map(parcelOf);
}

/** One after the other, since what is wanted shrinks with what remains. */
function* cutTable(table: SourceTable, wanted: () => number): Generator<Cut> {
  const { table: source, root, target, stream, fileNode, blocks } = table;
  const bytesPerBlock = blocks === 0 ? 0 : table.bytes / blocks;
  let fromBlock = 0;
  let left = table.bytes;
  for (let over = false; !over;) {
    const count = Math.max(1, Math.round(wanted() / Math.max(1, bytesPerBlock)));
    // A rest that is hardly more than a parcel is not cut again.
    over = blocks - fromBlock <= count * 1.5;
    const bytes = over ? left : count * bytesPerBlock;
    const toBlock = over ? null : fromBlock + count;
    const whole = over && fromBlock === 0;
    const extra = fromBlock === 0 ? TABLE_BYTES : 0;
    const estimatedRows = table.bytes === 0 ? 0 : Math.round((table.estimatedRows * bytes) / table.bytes);
    const range = {
      fromBlock,
      toBlock,
      blocks: over ? blocks - fromBlock : count,
      bytes: Math.round(bytes),
      estimatedRows,
    };
    yield { source, root, target, stream, fileNode, ...range, whole, weight: bytes + extra };
    fromBlock += count;
    left -= bytes;
  }
}

function weightOf(cuts: readonly Cut[]): number {
  return cuts.reduce((sum, { weight }) => sum + weight, 0);
}

function parcelOf(cuts: readonly Cut[], id: number): Parcel {
  const [first] = cuts;
  const pieces = cuts.flatMap(piecesOf).map((piece, i): Piece => ({ key: `${id}.${i}`, ...piece }));
  const bytes = pieces.reduce((sum, piece) => sum + piece.bytes, 0);
  return {
    id,
    label: first === undefined ? 'nothing' : labelOf(cuts, first),
    bytes,
    stream: first?.stream ?? '',
    pieces,
  };
}

/** As many as keep each below one and a half times what a piece has at most. */
function piecesOf(cut: Cut): Omit<Piece, 'key'>[] {
  const { source, root, target, fileNode, fromBlock, toBlock, blocks } = cut;
  const count = Math.max(1, Math.min(blocks, Math.round(cut.bytes / MAX_PIECE_BYTES)));
  const begin = (i: number): number => fromBlock + Math.floor((blocks * i) / count);
  const bytes = Math.round(cut.bytes / count);
  const estimatedRows = Math.round(cut.estimatedRows / count);
  return Array.from({ length: count }, (_, i) => {
    const range = { fromBlock: begin(i), toBlock: i + 1 < count ? begin(i + 1) : toBlock };
    return { source, root, target, fileNode, ...range, bytes, estimatedRows };
  });
}

function labelOf(cuts: readonly Cut[], first: Cut): string {
  const name = formatTableName(first.source);
  if (cuts.length > 1) return `${name} and ${cuts.length - 1} more`;
  if (first.whole) return name;
  return `${name}, blocks ${first.fromBlock} to ${first.toBlock === null ? 'the end' : first.toBlock - 1}`;
}
