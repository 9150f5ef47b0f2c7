import { formatTableName, type TableName } from '../../../plan/table-name.js';
import type { Plan } from '../../../plan/schema.js';
import { VerdigrisError } from '../../../errors.js';
import { isBinarySafe } from '../../binary-feed.js';
import { briefLock } from '../../brief-lock.js';
import { readTables } from '../../catalog.js';
import { ident } from '../../identifier.js';
import { parseSize } from '../../lag.js';
import { publishedTable } from '../../publication.js';
import { majorVersion } from '../../retry.js';
import type { Session } from '../../session.js';
import { readStreams, type Stream } from '../../streams.js';
import { ensureSubscription, readSubscription } from '../../subscription.js';
import { waitUntilReady } from '../tablesync.js';
import type { CopyContext } from './copy-context.js';
import { FOLLOW_LOCK, takeOver } from './copy-lock.js';
import { readCopyState, readParcels } from './copy-state.js';

/*
 * Green begins to follow blue from where the snapshots were taken. Tables that were not copied whole must not be
 * applied from there: their first rows are missing. They are taken out of their publication while the subscription is
 * made, so that it does not know them, and put back afterwards; REFRESH then finds them new and PostgreSQL copies them
 * itself, from a snapshot of its own. Changes of theirs that are decoded meanwhile are for a table that the subscription
 * does not know, and are passed over.
 *
 * After a crash anywhere: a publication with a table too few is told from one that is complete by the list of what is
 * left, which was written down before.
 */
export async function followCopy(context: CopyContext, blue: Session, green: Session): Promise<{ tables: number }> {
  const { databases, run, plan, signal } = context;
  // A frozen predecessor must not take a table out of its publication once green follows: its session is ended.
  await takeOver(blue, FOLLOW_LOCK, signal);
  const state = await readCopyState(green, run.runId);
  if (state?.phase !== 'closed') throw notClosed();
  const streams = await readStreams(blue, run.migration, 'to_green', plan.replicate.streams);
  const streamOf = new Map(
    (await readParcels(green, run.runId)).flatMap(({ stream, pieces }) =>
      pieces.map(({ root }) => [formatTableName(root), stream] as const),
    ),
  );
  const publisherVersion = await majorVersion(blue);
  const binary = state.left.length === 0 && (await canBeBinary(plan, blue, green));
  for (const stream of streams) {
    signal.throwIfAborted();
    const left = state.left.filter((table) => streamOf.get(formatTableName(table)) === stream.name);
    if ((await readSubscription(green, stream.name)) === undefined) {
      await unpublish(blue, stream, left);
      await ensureSubscription(green, {
        name: stream.name,
        conninfo: databases.blue.peerConninfo,
        copyData: false,
        enabled: true,
        publisherVersion,
        binary,
      });
    }
    await publishAgain(blue, stream.name, left);
    if (left.length > 0) await refresh(green, stream.name);
  }
  return waitUntilReady(
    blue,
    green,
    streams.map(({ name }) => name),
    {
      migration: run.migration,
      direction: 'to_green',
      maxRetainedWal: parseSize(plan.replicate.maxRetainedWal),
      signal,
      report: context.report,
    },
  );
}

/** Text is dearer, but goes into columns of other types, which raw SQL may make. */
async function canBeBinary(plan: Plan, blue: Session, green: Session): Promise<boolean> {
  if (plan.migrations.some((step) => 'sql' in step)) return false;
  return isBinarySafe(await readTables(blue, plan.tables), await readTables(green, plan.tables));
}

async function unpublish(blue: Session, stream: Stream, left: readonly TableName[]): Promise<void> {
  const published = new Set(stream.tables.map(formatTableName));
  const there = left.filter((table) => published.has(formatTableName(table)));
  if (there.length === 0) return;
  const list = there.map((table) => publishedTable({ table })).join(', ');
  await briefLock(blue, `ALTER PUBLICATION ${stream.name} DROP TABLE`, () =>
    blue.query(`ALTER PUBLICATION ${ident(stream.name)} DROP TABLE ${list}`),
  );
}

async function publishAgain(blue: Session, publication: string, left: readonly TableName[]): Promise<void> {
  if (left.length === 0) return;
  const { rows } = await blue.query<TableName>(
    `SELECT n.nspname AS schema, c.relname AS name
       FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
       JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE p.pubname = $1`,
    [publication],
  );
  const published = new Set(rows.map(formatTableName));
  const missing = left.filter((table) => !published.has(formatTableName(table)));
  if (missing.length === 0) return;
  const list = missing.map((table) => publishedTable({ table })).join(', ');
  await briefLock(blue, `ALTER PUBLICATION ${publication} ADD TABLE`, () =>
    blue.query(`ALTER PUBLICATION ${ident(publication)} ADD TABLE ${list}`),
  );
}

/** Tables that the subscription knows already are left as they are, so this may be run again. */
async function refresh(green: Session, subscription: string): Promise<void> {
  await briefLock(green, `ALTER SUBSCRIPTION ${subscription} REFRESH PUBLICATION`, () =>
    green.query(`ALTER SUBSCRIPTION ${ident(subscription)} REFRESH PUBLICATION WITH (copy_data = true)`),
  );
}

function notClosed(): VerdigrisError {
  return new VerdigrisError({
    type: 'ReplicationBroken',
    message: 'green can not follow blue yet: the copying has not been closed',
    nextStep: 'this is an error in the order of the steps: roll back and report it',
  });
}
