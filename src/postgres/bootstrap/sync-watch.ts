import { formatTableName } from '../../plan/table-name.js';
import type { Progress } from '../migrate/step-context.js';
import { partitionTree } from '../partition-tree.js';
import type { Session } from '../session.js';
import { TableRates, type CopiedSoFar } from './copy-rates.js';

/** How many tables are told of at once: the largest of those that are being copied. */
const SHOWN = 8;

interface RunningSync {
  readonly schema: string;
  readonly name: string;
  readonly rows: string;
  readonly bytes: string;
}

/** How far PostgreSQL's own synchronization of tables is, table by table, as green sees it. */
export class SyncWatch {
  private readonly rates = new TableRates();
  private expected: ReadonlyMap<string, number> | undefined;
  private shown = new Map<string, Progress>();
  private readonly copied = new Map<string, { readonly bytes: number; readonly begunAnew: number }>();

  constructor(
    private readonly source: Session,
    private readonly target: Session,
    private readonly subscriptions: readonly string[],
  ) {}

  /** Tables whose rows are being copied, and those that have been finished since the last look. */
  async look(now = performance.now()): Promise<readonly Progress[]> {
    this.expected ??= await this.estimates();
    const running = new Map<string, CopiedSoFar & { readonly total: number }>();
    for (const { rows, bytes, ...table } of await this.running()) {
      const name = formatTableName(table);
      const estimated = this.expected.get(name) ?? 0;
      const share = estimated > Number(rows) ? Number(rows) / estimated : undefined;
      running.set(name, { rows: Number(rows), bytes: Number(bytes), share, total: estimated });
      const { bytes: before = 0, begunAnew = 0 } = this.copied.get(name) ?? {};
      this.copied.set(name, { bytes: Number(bytes), begunAnew: begunAnew + (Number(bytes) < before ? 1 : 0) });
    }
    const rates = this.rates.look(running, now);
    const progress = [...running]
      .sort(([, a], [, b]) => b.total - a.total)
      .slice(0, SHOWN)
      .map(([object, { rows, bytes, total }]): Progress => {
        const { rowsPerSecond = 0, bytesPerSecond = 0, etaSeconds = null } = rates.get(object) ?? {};
        // Where blue has no statistics, or old ones, all that is known is that there is more.
        const expected = Math.max(total, rows + 1);
        return { step: 'copy', object, done: rows, total: expected, rowsPerSecond, bytes, bytesPerSecond, etaSeconds };
      });
    // What was shown and is copied no more is done: the last count is all that is known of it.
    const finished = [...this.shown.values()]
      .filter(({ object }) => !running.has(object))
      .map((last): Progress => ({ ...last, total: last.done, etaSeconds: 0 }));
    this.shown = new Map(progress.map((one) => [one.object, one]));
    return [...finished, ...progress];
  }

  /** A table whose copy was seen to begin anew so often. */
  begunAnew(times: number): string | undefined {
    return [...this.copied].find(([, { begunAnew }]) => begunAnew >= times)?.[0];
  }

  /** A worker copies into the table that it subscribes to: of a partitioned one it may be the parent or a leaf. */
  private async running(): Promise<readonly RunningSync[]> {
    const { rows } = await this.target.query<RunningSync>(
      `SELECT n.nspname AS schema, c.relname AS name, p.tuples_processed::text AS rows, p.bytes_processed::text AS bytes
         FROM pg_subscription s
         JOIN pg_subscription_rel r ON r.srsubid = s.oid
         JOIN pg_stat_progress_copy p ON p.relid = r.srrelid AND p.command = 'COPY FROM' AND p.datname = current_database()
         JOIN pg_class c ON c.oid = r.srrelid
         JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.subname = ANY ($1)
          AND r.srsubstate NOT IN ('s', 'r')`,
      [this.subscriptions],
    );
    return rows;
  }

  /** Rows as the last ANALYZE has counted them; those of a partitioned table are in its leaves. */
  private async estimates(): Promise<ReadonlyMap<string, number>> {
    const { rows } = await this.source.query<{ schema: string; name: string; rows: number }>(
      `SELECT n.nspname AS schema, c.relname AS name,
              (SELECT coalesce(sum(greatest(leaf.reltuples, 0)), 0)
                 FROM ${partitionTree('c.oid')} t
                CROSS JOIN LATERAL (SELECT l.reltuples FROM pg_class l WHERE l.oid = t.relid OFFSET 0) leaf
                WHERE t.isleaf)::float8 AS rows
         FROM pg_publication_tables pt
         JOIN pg_namespace n ON n.nspname = pt.schemaname
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = pt.tablename
        WHERE pt.pubname = ANY ($1)`,
      [this.subscriptions],
    );
    return new Map(rows.map((row) => [formatTableName(row), row.rows]));
  }
}
