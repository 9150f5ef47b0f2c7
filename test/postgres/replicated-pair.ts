import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { planSchema, type Plan } from '../../src/plan/schema.js';
import { formatTableName, parseTableName } from '../../src/plan/table-name.js';
import { readTables, replicatedRoots } from '../../src/postgres/catalog.js';
import { ident } from '../../src/postgres/identifier.js';
import { waitForMarker, writeMarker } from '../../src/postgres/marker.js';
import { planWork, reverseColumns, type Work } from '../../src/postgres/migrate/plan-work.js';
import type { Progress, StepContext } from '../../src/postgres/migrate/step-context.js';
import { createPublication } from '../../src/postgres/publication.js';
import { dropSlot, ensureSlot } from '../../src/postgres/replication-slot.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { dropSubscription, ensureSubscription } from '../../src/postgres/subscription.js';
import { verifyTables, type Verification, type VerifyOptions } from '../../src/postgres/verify/verify-tables.js';
import { asDatabase, testDatabase, type TestDatabase, type TestServer } from '../support/postgres.js';

const ALL = { include: ['*.*'], exclude: [] };

/** A pass over tables by their names; all else has a default. */
export type Comparison = Partial<Omit<VerifyOptions, 'tables'>> &
  Pick<VerifyOptions, 'pass' | 'work'> & { readonly tables: readonly string[] };

/** Blue and green of one test, joined by real logical replication. */
export class ReplicatedPair {
  private constructor(
    private readonly databases: readonly TestDatabase[],
    readonly blueDatabase: Database,
    readonly greenDatabase: Database,
    /** The application's connections. */
    readonly blue: pg.Client,
    readonly green: pg.Client,
    /** Our sessions. */
    readonly ourBlue: Session,
    readonly ourGreen: Session,
    private readonly feed: string,
    private readonly blueVersion: number,
  ) {}

  /** Runs `ddl` on both sides, `rows` on blue, and waits until green has them. */
  static async start(
    server: TestServer,
    purpose: string,
    ddl: string,
    rows = '',
    only: { blue: string; green: string } = { blue: '', green: '' },
    options = '',
  ): Promise<ReplicatedPair> {
    const [blueDb, greenDb] = [
      await testDatabase(server, `${purpose}_b`, options),
      await testDatabase('pg18', `${purpose}_g`, options),
    ];
    const [blueDatabase, greenDatabase] = [asDatabase(blueDb, 'blue'), asDatabase(greenDb, 'green')];
    const clients = [new pg.Client(blueDb.config), new pg.Client(greenDb.config)] as const;
    for (const client of clients) {
      client.on('error', () => undefined);
      await client.connect();
      await client.query(ddl);
    }
    if (only.blue !== '') await clients[0].query(only.blue);
    if (only.green !== '') await clients[1].query(only.green);
    if (rows !== '') await clients[0].query(rows);
    const ours = [
      await openSession(blueDatabase, { purpose: 'test' }),
      await openSession(greenDatabase, { purpose: 'test' }),
    ] as const;
    await installState(ours[0], 'blue');
    await installState(ours[1], 'green');
    const pair = new ReplicatedPair(
      [blueDb, greenDb],
      blueDatabase,
      greenDatabase,
      ...clients,
      ...ours,
      blueDb.database,
      server === 'pg15' ? 15 : 18,
    );
    const tables = replicatedRoots(await readTables(pair.ourBlue, ALL)).map(({ name }) => ({ table: name }));
    await pair.ourBlue.query(createPublication(pair.feed, 'to_green', tables));
    await ensureSlot(pair.ourBlue, pair.feed);
    await ensureSubscription(pair.ourGreen, {
      name: pair.feed,
      conninfo: blueDatabase.peerConninfo,
      copyData: true,
      enabled: true,
      publisherVersion: pair.blueVersion,
      publisher: pair.ourBlue,
    });
    await pair.synced(pair.ourGreen);
    await pair.caughtUp();
    return pair;
  }

  private async synced(session: Session): Promise<void> {
    for (;;) {
      const { rows } = await session.query<{ left: number }>(
        `SELECT count(*)::int AS left FROM pg_subscription_rel WHERE srsubstate <> 'r'`,
      );
      if (rows[0]?.left === 0) return;
      await sleep(20);
    }
  }

  /** Waits until green has everything of blue. */
  async caughtUp(): Promise<void> {
    const token = await writeMarker(this.ourBlue, 'to_green');
    if (!(await waitForMarker(this.ourGreen, 'to_green', token, 20_000))) throw new Error('green does not follow');
  }

  /** What `write` does to the table on blue never reaches green. */
  async withoutPublishing(table: string, write: () => Promise<unknown>): Promise<void> {
    await this.caughtUp();
    await this.blue.query(`ALTER PUBLICATION ${ident(this.feed)} DROP TABLE ${table}`);
    await write();
    await this.blue.query(`ALTER PUBLICATION ${ident(this.feed)} ADD TABLE ${table}`);
    await this.caughtUp();
  }

  /** Copies a table of blue to an empty one of green, by the columns of blue. */
  async copyToGreen(table: string): Promise<void> {
    await this.caughtUp();
    const { rows } = await this.blue.query<{ rows: string; columns: string }>(
      `SELECT (SELECT coalesce(json_agg(t), '[]') FROM ${table} t)::text AS rows,
              (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped) AS columns`,
      [table],
    );
    const columns = rows[0]?.columns ?? '';
    await this.green.query(`SET session_replication_role = replica`);
    await this.green.query(
      `INSERT INTO ${table} (${columns}) SELECT ${columns} FROM json_populate_recordset(NULL::${table}, $1::json)`,
      [rows[0]?.rows],
    );
    await this.green.query(`RESET session_replication_role`);
  }

  async caughtUpOnBlue(): Promise<void> {
    const token = await writeMarker(this.ourGreen, 'to_blue');
    if (!(await waitForMarker(this.ourBlue, 'to_blue', token, 20_000))) throw new Error('blue does not follow');
  }

  /** Turns the feed around: from now on green is written, and blue follows in its own columns. */
  async promoteGreen(): Promise<void> {
    await this.caughtUp();
    await dropSubscription(this.ourGreen, this.feed);
    await dropSlot(this.ourBlue, this.feed);
    const back = `${this.feed}_back`;
    const green = new Map((await readTables(this.ourGreen, ALL)).map((table) => [formatTableName(table.name), table]));
    const tables = replicatedRoots(await readTables(this.ourBlue, ALL)).flatMap((table) => {
      const other = green.get(formatTableName(table.name));
      return other === undefined ? [] : [{ table: table.name, columns: reverseColumns(table, other) }];
    });
    await this.ourGreen.query(createPublication(back, 'to_blue', tables));
    await ensureSlot(this.ourGreen, back);
    await ensureSubscription(this.ourBlue, {
      name: back,
      conninfo: this.greenDatabase.peerConninfo,
      copyData: false,
      enabled: true,
      publisherVersion: 18,
      tables: tables.map(({ table }) => table),
    });
    await this.caughtUpOnBlue();
  }

  /** A context for steps on green; `seen` takes what they report. */
  context(seen: Progress[] = [], signal: AbortSignal = new AbortController().signal, runId = 'run'): StepContext {
    return contextOn(this.greenDatabase, this.ourGreen, seen, signal, runId);
  }

  /** Compares tables, without rests and towards green where nothing else is asked for. */
  verify({ tables, direction = 'to_green', ...asked }: Comparison): Promise<Verification> {
    const sides = [this.blueDatabase, this.greenDatabase] as const;
    const [source, target] = direction === 'to_green' ? sides : ([sides[1], sides[0]] as const);
    return verifyTables({
      ...{ source, target, direction, runId: 'run', rest: 0, onProgress: () => undefined },
      signal: new AbortController().signal,
      tables: tables.map(parseTableName),
      ...asked,
    });
  }

  async stop(): Promise<void> {
    await Promise.all([this.blue.end(), this.green.end(), closeSession(this.ourBlue), closeSession(this.ourGreen)]);
    // The subscriber first: its worker would take the slot again.
    await this.databases[1]?.drop();
    await this.databases[0]?.drop();
  }
}

export function contextOn(
  database: Database,
  session: Session,
  seen: Progress[] = [],
  signal: AbortSignal = new AbortController().signal,
  runId = 'run',
): StepContext {
  return {
    runId,
    session,
    connect: (purpose) => openSession(database, { purpose }),
    signal,
    onProgress: (progress) => seen.push(progress),
  };
}

/** A plan of these migrations, with its defaults. */
export function planOf(migrations: readonly object[]): Plan {
  return planSchema.parse({ name: 'test', blue: { connection: 'b' }, green: { connection: 'g' }, migrations });
}

export function workOf(migrations: readonly object[]): Promise<Work> {
  return planWork(planOf(migrations));
}

export const NO_LAG = { batchMs: 250, maxLagSeconds: 5, lagSeconds: () => Promise.resolve(0) };
