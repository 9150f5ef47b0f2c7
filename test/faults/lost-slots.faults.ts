import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterEach, describe, expect, it } from 'vitest';
import type { FeedNews } from '../../activities/feed-watch.js';
import { replicateActivities, type RetainedWal } from '../../activities/replicate.js';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { dropSlots, dropSubscriptions } from '../../src/postgres/feed-objects.js';
import { feedName } from '../../src/postgres/feed.js';
import { disableSubscription } from '../../src/postgres/subscription.js';
import { streamNames } from '../../src/postgres/streams.js';
import type { ServerAddress, TestServer } from '../support/postgres.js';
import { MIGRATION, StreamPair } from '../postgres/stream-pair.js';

/*
 * A slot that was dropped, or that its server has invalidated, holds no WAL back and sends nothing. It must neither pass
 * for a feed that keeps up nor be waited for.
 */

const FEED = feedName(MIGRATION, 'to_green');
const [FIRST = '', SECOND = ''] = streamNames(MIGRATION, 'to_green', 2);
const DDL = 'CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)';

let pair: StreamPair | undefined;
let own: EmbeddedPostgres | undefined;
afterEach(async () => {
  await pair?.stop();
  pair = undefined;
  await own?.stop();
  own = undefined;
});

async function started(blue: TestServer | ServerAddress, green: TestServer): Promise<StreamPair> {
  pair = await StreamPair.start({ blue, green }, DDL);
  return pair;
}

async function replicating(blue: TestServer | ServerAddress, green: TestServer): Promise<StreamPair> {
  const made = await started(blue, green);
  await made.publish(['a', 'b']);
  await made.replicate();
  return made;
}

/** The watch of the WAL that blue keeps, until it is cancelled. */
function watch(of: StreamPair, known: 'fine' | 'warn'): { ended: Promise<RetainedWal | FeedNews>; cancel: () => void } {
  const environment = new MockActivityEnvironment();
  const { watchRetainedWal } = replicateActivities(of.dependencies);
  const ended = environment.run(() => watchRetainedWal(of.ref, known)) as Promise<RetainedWal | FeedNews>;
  ended.catch(() => undefined);
  return { ended, cancel: () => environment.cancel() };
}

async function goesOn(of: StreamPair, meanwhile: () => Promise<unknown>): Promise<void> {
  const looking = watch(of, 'fine');
  await sleep(1_500);
  await meanwhile();
  await sleep(2_500);
  looking.cancel();
  await expect(looking.ended).rejects.toThrow(/CANCELLED|cancelled/i);
}

const broken = expect.objectContaining({ type: 'ReplicationBroken', nonRetryable: true }) as Error;

describe('a slot of the feed', () => {
  const [blue, green] = ['pg15', 'pg18'] as const;

  it('that somebody drops ends the run at once, whatever was known and whoever looks', async () => {
    const made = await replicating(blue, green);
    await disableSubscription(made.green, SECOND);
    await made.blue.query('SELECT pg_drop_replication_slot($1)', [SECOND]);
    await expect(watch(made, 'warn').ended).rejects.toEqual(broken);
    await made.green.query(`ALTER SUBSCRIPTION ${SECOND} ENABLE`);
    const { awaitLag } = replicateActivities(made.dependencies);
    const lag = new MockActivityEnvironment().run(() => awaitLag(made.ref)) as Promise<unknown>;
    await expect(lag).rejects.toEqual(
      expect.objectContaining({ type: 'ReplicationBroken', message: expect.stringContaining(FEED) as string }),
    );
  }, 60_000);

  it('is not missed before it is made, nor after a promotion has ended the feed', async () => {
    const made = await started(blue, green);
    await goesOn(made, async () => {
      await made.publish(['a', 'b']);
      await made.replicate();
    });
    await goesOn(made, async () => {
      await dropSubscriptions(made.green, FEED);
      await dropSlots(made.blue, FEED);
    });
  }, 60_000);
});

it('a slot that its server has invalidated ends the run, too', async () => {
  own = await startPostgres({
    version: 18,
    name: 'lost-slots',
    settings: { fsync: 'off', wal_level: 'logical', max_slot_wal_keep_size: '16MB' },
  });
  const made = await replicating({ port: own.port, password: own.password }, 'pg18');
  await disableSubscription(made.green, FIRST);
  for (let segment = 0; segment < 4; segment++) {
    await made.blue.query('INSERT INTO public.a SELECT coalesce(max(id), 0) + 1 FROM public.a; SELECT pg_switch_wal()');
  }
  await made.blue.query('CHECKPOINT');
  await expect(watch(made, 'fine').ended).rejects.toEqual(broken);
  await expect(watch(made, 'fine').ended).rejects.toThrow('was invalidated by its server');
}, 60_000);
