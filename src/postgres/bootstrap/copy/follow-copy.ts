import { formatTableName } from '../../../plan/table-name.js';
import { VerdigrisError } from '../../../errors.js';
import { isBinarySafe, isToBeText } from '../../binary-feed.js';
import { readTables } from '../../catalog.js';
import { parseSize } from '../../lag.js';
import { majorVersion } from '../../retry.js';
import type { Session } from '../../session.js';
import { readStreams } from '../../streams.js';
import { stuck } from '../../stuck-feed.js';
import { ensureSubscription, readSubscription } from '../../subscription.js';
import { copyAnew } from '../copy-anew.js';
import { publishAgain, refresh, unpublish } from '../synchronized-tables.js';
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
  await copyAnew(context, green);
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
  const binary = state.left.length === 0 && (await canBeBinary(context, blue, green));
  for (const stream of streams) {
    signal.throwIfAborted();
    const left = state.left.filter((table) => streamOf.get(formatTableName(table)) === stream.name);
    if ((await readSubscription(green, stream.name)) === undefined) {
      await unpublish(blue, stream.name, left);
      const { blue: peer } = databases;
      const { peerConninfo: conninfo } = peer;
      await ensureSubscription(
        green,
        {
          name: stream.name,
          conninfo,
          copyData: false,
          enabled: true,
          publisherVersion,
          publisher: blue,
          tables: left,
          peer,
          binary,
        },
        { signal },
      );
    }
    await publishAgain(blue, stream.name, left);
    if (left.length > 0) await refresh(databases.blue, blue, green, stream.name);
  }
  return waitUntilReady(
    blue,
    green,
    streams.map(({ name }) => name),
    {
      databases,
      migration: run.migration,
      direction: 'to_green',
      maxRetainedWal: parseSize(plan.replicate.maxRetainedWal),
      signal,
      report: context.report,
      whyStuck: (tables) => stuck(context, blue, green, tables),
    },
  );
}

/** Text is dearer, but goes into columns of other types, which raw SQL may make, or somebody's DDL. */
async function canBeBinary({ plan, run }: CopyContext, blue: Session, green: Session): Promise<boolean> {
  if (plan.migrations.some((step) => 'sql' in step) || (await isToBeText(blue, run))) return false;
  return isBinarySafe(await readTables(blue, plan.tables), await readTables(green, plan.tables));
}

function notClosed(): VerdigrisError {
  return new VerdigrisError({
    type: 'ReplicationBroken',
    message: 'green can not follow blue yet: the copying has not been closed',
    nextStep: 'this is an error in the order of the steps: roll back and report it',
  });
}
