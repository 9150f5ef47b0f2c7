import { expect, it } from 'vitest';
import { readCopyState, type CopyState } from '../../src/postgres/bootstrap/copy/copy-state.js';
import type { HolderAttempt } from '../../src/postgres/bootstrap/copy/held-snapshots.js';
import { CopyPair } from '../postgres/copy-pair.js';

/*
 * Temporal that hears nothing of an attempt for 15 s gives it up, while the databases, the worker and the snapshots are all
 * well: the next attempt goes on with them.
 */

const DDL = 'CREATE TABLE one (id int, body text); CREATE TABLE two (id int, body text);';
const KEYS = '; ALTER TABLE one ADD PRIMARY KEY (id); ALTER TABLE two ADD PRIMARY KEY (id);';
const ROWS = `INSERT INTO one SELECT n, repeat(md5(n::text), 58) FROM generate_series(1, 9000) n;
              INSERT INTO two SELECT n, repeat(md5(n::text), 58) FROM generate_series(1, 9000) n`;

async function withPair(purpose: string, work: (pair: CopyPair) => Promise<void>): Promise<void> {
  const pair = await CopyPair.start(['pg18', 'pg18'], purpose, DDL, ROWS + KEYS);
  try {
    await work(pair);
  } finally {
    await pair.stop();
  }
}

function attempt(number: number, more: Partial<HolderAttempt> = {}): HolderAttempt {
  return {
    isAnother: number > 1,
    endedBy: () => 'silence',
    doesRunGoOn: () => Promise.resolve(true),
    ...more,
  };
}

async function stateOf(pair: CopyPair): Promise<CopyState | undefined> {
  return readCopyState(pair.ourGreen, pair.run.runId);
}

async function holders(pair: CopyPair, act = ''): Promise<number> {
  const { rowCount } = await pair.blue.query(
    `SELECT pid ${act} FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'verdigris copy snapshot'`,
  );
  return rowCount ?? 0;
}

/** One parcel is copied, and Temporal gives the attempt up that holds the snapshot. */
async function givenUp(pair: CopyPair, more: Partial<HolderAttempt> = {}): Promise<CopyState | undefined> {
  const parcels = await pair.planCopy();
  const first = pair.hold([], attempt(1, more));
  await pair.phase('ready');
  expect((await pair.copyParcel(parcels[0]?.id ?? -1)).outcome).toBe('copied');
  const state = await stateOf(pair);
  first.stop();
  expect(await first.ended).toBe('cancelled');
  return state;
}

it('snapshots whose holder Temporal has not heard of are gone on with, and end with the copying', () =>
  withPair('held_on', async (pair) => {
    const before = await givenUp(pair);
    expect(await holders(pair)).toBe(1);
    const second = pair.hold([], attempt(2));
    const parcels = await pair.planCopy();
    expect((await pair.copyAll(parcels)).map(({ outcome }) => outcome)).toEqual(parcels.map(() => 'copied'));
    expect(await stateOf(pair)).toEqual(before);
    await pair.blue.query(`UPDATE one SET body = 'late' WHERE id = 1; DELETE FROM two WHERE id = 2`);
    expect(await pair.finish()).toEqual({ tables: 2, left: [] });
    expect(await second.ended).toBe('released');
    await expect.poll(() => holders(pair), { timeout: 5_000 }).toBe(0);
    await pair.addKeys(KEYS);
    await pair.follow();
    await pair.caughtUp();
    expect(await pair.differences()).toEqual([]);
  }));

it('a second attempt that is given up, too, leaves them to the third; one that the run ends takes them with it', () =>
  withPair('held_thrice', async (pair) => {
    await givenUp(pair);
    const second = pair.hold([], attempt(2));
    await expect.poll(() => watchers(pair), { timeout: 5_000 }).toBe(1);
    second.stop();
    expect(await second.ended).toBe('cancelled');
    expect(await holders(pair)).toBe(1);
    const third = pair.hold([], attempt(3, { endedBy: () => 'run' }));
    await expect.poll(() => watchers(pair), { timeout: 5_000 }).toBe(1);
    third.stop();
    expect(await third.ended).toBe('cancelled');
    await expect.poll(() => holders(pair), { timeout: 5_000 }).toBe(0);
    // As ever: what is copied stays, and another snapshot would not fit it.
    expect(await pair.hold([], attempt(1)).ended).toBe('lost');
  }));

it('a snapshot whose session has died is never gone on with, also when it dies under the watcher', () =>
  withPair('held_dead', async (pair) => {
    await givenUp(pair);
    const second = pair.hold([], attempt(2));
    await expect.poll(() => watchers(pair), { timeout: 5_000 }).toBe(1);
    expect(await holders(pair, ', pg_terminate_backend(pid, 5000)')).toBe(1);
    await expect(second.ended).rejects.toThrow('the connection that holds the snapshot was lost');
    expect(await pair.hold([], attempt(3)).ended).toBe('lost');
  }));

it('a session with the same process number that began at another time is not the holder', () =>
  withPair('held_pid', async (pair) => {
    await givenUp(pair);
    await pair.ourGreen.query(
      `UPDATE verdigris.progress SET state = jsonb_set(state, '{holders,0,since}', '"2001-01-01 00:00:00+00"')
        WHERE step = 'copy' AND object = 'state'`,
    );
    expect(await pair.hold([], attempt(2)).ended).toBe('lost');
    await expect.poll(() => holders(pair), { timeout: 5_000 }).toBe(0);
  }));

it('what is kept for the next attempt ends when the run is over, and is kept while Temporal does not answer', () =>
  withPair('held_over', async (pair) => {
    let goesOn: boolean | undefined = undefined;
    let asked = 0;
    await givenUp(pair, {
      doesRunGoOn: () => {
        asked++;
        return Promise.resolve(goesOn);
      },
    });
    await expect.poll(() => asked, { timeout: 10_000 }).toBeGreaterThan(1);
    expect(await holders(pair)).toBe(1);
    goesOn = false;
    await expect.poll(() => holders(pair), { timeout: 5_000 }).toBe(0);
  }));

async function watchers(pair: CopyPair): Promise<number> {
  const { rowCount } = await pair.blue.query(
    `SELECT FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND objsubid = 2 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
  );
  return rowCount ?? 0;
}
