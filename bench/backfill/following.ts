import { measureLag } from '../../src/postgres/marker.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { dropSlot, ensureSlot } from '../../src/postgres/replication-slot.js';
import { majorVersion } from '../../src/postgres/retry.js';
import { withSession, type Databases, type Session } from '../../src/postgres/session.js';
import { ensurePublications, streamNames } from '../../src/postgres/streams.js';
import { dropSubscription, ensureSubscription } from '../../src/postgres/subscription.js';
import { UP } from './change.js';
import { MARKER_WITHIN_MS } from './verdigris.js';

const MIGRATION = 'bench';
const TABLES = [{ table: { schema: 'public', name: 'transactions' } }];

/**
 * Has green, which has blue's rows, follow blue for as long as the work lasts: where a run stands when it fills green.
 *
 * @throws Error when it does not follow
 */
export async function whileGreenFollows<T>(databases: Databases, work: () => Promise<T>): Promise<T> {
  const names = streamNames(MIGRATION, 'to_green', 1);
  try {
    await claimDatabases(databases, { runId: 'bench', migration: MIGRATION }, 'flag');
    await onBoth(databases, async (blue, green) => {
      await ensurePublications(blue, { migration: MIGRATION, direction: 'to_green', tables: TABLES, streams: 1 });
      const publisherVersion = await majorVersion(blue);
      const feed = { conninfo: databases.blue.peerConninfo, copyData: false, enabled: true, publisherVersion };
      for (const name of names) {
        await ensureSlot(blue, name);
        await ensureSubscription(green, { name, ...feed });
      }
      await caughtUp(blue, green);
    });
    return await work();
  } finally {
    // A database that has a subscription, or a slot in use, can't be dropped.
    await onBoth(databases, async (blue, green) => {
      for (const name of names) {
        await dropSubscription(green, name);
        await dropSlot(blue, name);
      }
    });
  }
}

/**
 * After the application's last write: green must have blue's rows and no others, each with the value of its new column.
 *
 * @throws Error when it has not
 */
export async function refuseDifference(databases: Databases): Promise<void> {
  await onBoth(databases, async (blue, green) => {
    await caughtUp(blue, green);
    const should = await contentsOf(blue, UP);
    const is = await contentsOf(green, 'metadata');
    if (is.rows === should.rows && is.hash === should.hash) return;
    throw new Error(
      is.rows === should.rows
        ? `green differs from blue in some of its ${is.rows} rows`
        : `green has ${is.rows} rows, blue ${should.rows}`,
    );
  });
}

/** How many rows there are, and the sum of their hashes, which is the same in any order. */
async function contentsOf(session: Session, metadata: string): Promise<{ rows: string; hash: string }> {
  const { rows } = await session.query<{ rows: string; hash: string }>(
    `SELECT count(*) AS rows,
            coalesce(sum(hashtextextended(
              ROW (id, user_id, amount, currency, status, payload, created_at, ${metadata})::text, 0)), 0)::text AS hash
       FROM public.transactions`,
  );
  const [contents] = rows;
  if (contents === undefined) throw new Error('an aggregate without a row');
  return contents;
}

async function caughtUp(blue: Session, green: Session): Promise<void> {
  const lag = await measureLag(blue, green, 'to_green', MARKER_WITHIN_MS);
  if (!Number.isFinite(lag)) throw new Error('green does not follow blue');
}

function onBoth<T>({ blue, green }: Databases, work: (blue: Session, green: Session) => Promise<T>): Promise<T> {
  return withSession(blue, { purpose: 'bench feed' }, (onBlue) =>
    withSession(green, { purpose: 'bench feed' }, (onGreen) => work(onBlue, onGreen)),
  );
}
