import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll } from 'vitest';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import type { PreflightFinding } from '../../src/postgres/preflight/finding.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import type { Database } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from './postgres.js';

/** Of one test file: roles and slots are of the whole server, which other files have at the same time. */
export const TAG = randomBytes(4).toString('hex');
export const RUN = 'run-1';
export const MIGRATION = `preflight-${TAG}`;

/** Two databases of one test file with which a run could begin: blue has a table, green has nothing. */
export interface PreflightPair {
  readonly blueDb: TestDatabase;
  readonly greenDb: TestDatabase;
  readonly blue: Database;
  readonly green: Database;
  /** What takes back what a test has done, latest first. */
  readonly undo: (() => Promise<unknown>)[];
  readonly onBlue: (sql: string) => Promise<unknown>;
  readonly onGreen: (sql: string) => Promise<unknown>;
  /** What the preflight finds. Default: with the shortest plan, in these two databases */
  readonly check: (
    plan?: Partial<PlanInput>,
    databases?: { blue?: Database; green?: Database },
  ) => Promise<readonly PreflightFinding[]>;
}

/** Makes them before the tests of the file that calls it, undoes after each of them, and drops them at the end. */
export function preflightPair(topic: string): PreflightPair {
  let made: Pick<PreflightPair, 'blueDb' | 'greenDb' | 'blue' | 'green'> | undefined;
  const pair = (): NonNullable<typeof made> => {
    if (made === undefined) throw new Error('the databases are made before the first test');
    return made;
  };
  const undo: (() => Promise<unknown>)[] = [];
  const onBlue = (sql: string): Promise<unknown> => withClient(pair().blueDb.config, (client) => client.query(sql));
  const onGreen = (sql: string): Promise<unknown> => withClient(pair().greenDb.config, (client) => client.query(sql));
  beforeAll(async () => {
    const blueDb = await testDatabase('pg15', `preflight ${topic} blue`);
    const greenDb = await testDatabase('pg18', `preflight ${topic} green`);
    made = { blueDb, greenDb, blue: asDatabase(blueDb, 'blue'), green: asDatabase(greenDb, 'green') };
    await onBlue('CREATE TABLE public.orders (id bigint PRIMARY KEY, total numeric)');
  });
  afterEach(async () => {
    for (const step of undo.splice(0).reverse()) await step();
  });
  afterAll(async () => {
    await made?.blueDb.drop();
    await made?.greenDb.drop();
  });
  return {
    get blueDb() {
      return pair().blueDb;
    },
    get greenDb() {
      return pair().greenDb;
    },
    get blue() {
      return pair().blue;
    },
    get green() {
      return pair().green;
    },
    ...{ undo, onBlue, onGreen },
    check: async (plan = {}, databases = {}) => {
      const { blue, green } = pair();
      const parsed = planSchema.parse({
        version: 1,
        name: MIGRATION,
        blue: { connection: 'test_blue' },
        green: { connection: 'test_green' },
        ...plan,
      });
      const report = await preflight({ blue, green, ...databases, plan: parsed, runId: RUN, reachWithinMs: 1_000 });
      return report.findings;
    },
  };
}

export function only(findings: readonly PreflightFinding[], name: string): PreflightFinding[] {
  return findings.filter((finding) => finding.check === name);
}

export function errorsOf(findings: readonly PreflightFinding[]): string[] {
  return findings.filter(({ severity }) => severity === 'error').map(({ check: name, side }) => `${name} ${side}`);
}

/** Everything of a database that a check could leave behind. */
export async function contents(db: TestDatabase): Promise<unknown> {
  return withClient(db.config, async (client) => {
    const { rows } = await client.query(
      `SELECT (SELECT array_agg(oid::bigint ORDER BY oid) FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace) AS classes,
              (SELECT array_agg(nspname::text ORDER BY oid) FROM pg_namespace) AS schemas,
              (SELECT count(*)::int FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()) AS subscriptions,
              (SELECT count(*)::int FROM pg_replication_slots WHERE database = current_database()) AS slots,
              (SELECT count(*)::int FROM pg_publication) AS publications`,
    );
    return rows[0];
  });
}
