import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { withSession, type Databases } from '../../src/postgres/session.js';
import { refuseWhileBlueServes, refuseWhileGreenServes, whereWritesAre } from '../../src/postgres/where-writes-are.js';
import { writesOfGreen } from '../../src/postgres/writes-of-green.js';
import type { Side } from '../../src/side.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';

const RUN = { runId: 'run-1', migration: 'where-test' };

let blue: TestDatabase;
let green: TestDatabase;
let databases: Databases;
let epoch: number;

beforeAll(async () => {
  blue = await testDatabase('pg15', 'where blue');
  green = await testDatabase('pg18', 'where green');
  databases = { blue: asDatabase(blue, 'blue'), green: asDatabase(green, 'green') };
  epoch = await claimDatabases(databases, RUN, 'use-green-db');
});

afterAll(() => Promise.all([blue.drop(), green.drop()]));

/** What a side's own row says. */
async function says(side: Side, writesOn: Side, at: number): Promise<void> {
  await withSession(databases[side], { purpose: 'test' }, (session) =>
    session.query('UPDATE verdigris.route SET writes_on = $1, epoch = $2, opening = NULL', [writesOn, at]),
  );
}

function greenAway(): Databases {
  return { ...databases, green: { ...databases.green, config: { host: '127.0.0.1', port: 1, user: 'nobody' } } };
}

it('is for one run at a time: another is refused, with what to do where the first is no more', async () => {
  const other = claimDatabases(databases, { runId: 'run-2', migration: 'other' }, 'use-green-db');
  await expect(other).rejects.toMatchObject({
    type: 'DatabaseOwned',
    message: expect.stringMatching(
      /workflow verdigris\/where-test.* If that workflow is gone: verdigris doctor plan\.json --clean\. /,
    ) as string,
  });
});

describe('where writes are', () => {
  beforeEach(async () => {
    await says('blue', 'blue', epoch);
    await says('green', 'blue', epoch);
  });

  it('is what blue says, as long as nothing contradicts it', async () => {
    expect(await whereWritesAre(databases, RUN, epoch)).toEqual({ writesOn: 'blue', epoch });
    await says('blue', 'green', epoch + 1);
    expect(await whereWritesAre(databases, RUN, epoch)).toEqual({ writesOn: 'green', epoch: epoch + 1 });
    await expect(refuseWhileGreenServes(databases, RUN)).rejects.toMatchObject({ type: 'WritesOnGreen' });
  });

  it('is uncertain where blue was restored: green has them since a later epoch', async () => {
    await says('green', 'green', epoch + 1);
    for (const known of [0, epoch, epoch + 1]) {
      await expect(whereWritesAre(databases, RUN, known)).rejects.toMatchObject({
        type: 'WritesUncertain',
        retryable: false,
      });
    }
    await expect(refuseWhileGreenServes(databases, RUN)).rejects.toMatchObject({ type: 'WritesOnGreen' });
  });

  it('is uncertain where the run has seen a later epoch than blue knows, whether or not green answers', async () => {
    await expect(whereWritesAre(greenAway(), RUN, epoch + 1)).rejects.toMatchObject({ type: 'WritesUncertain' });
    await expect(whereWritesAre(databases, RUN, epoch + 1)).rejects.toMatchObject({ type: 'WritesUncertain' });
    expect(await whereWritesAre(greenAway(), RUN, epoch)).toEqual({ writesOn: 'blue', epoch });
  });

  it('is blue again once green has given them back', async () => {
    await says('green', 'blue', epoch + 2);
    await says('blue', 'blue', epoch + 2);
    expect(await whereWritesAre(databases, RUN, epoch + 1)).toEqual({ writesOn: 'blue', epoch: epoch + 2 });
    await expect(refuseWhileGreenServes(databases, RUN)).resolves.toBeUndefined();
  });

  it('is a blue that is still to be opened where green alone knows that it has given them back', async () => {
    await says('blue', 'green', epoch + 1);
    await says('green', 'blue', epoch + 2);
    const found = { writesOn: 'blue', epoch: epoch + 2, isOpen: false };
    for (const known of [0, epoch + 1]) expect(await whereWritesAre(databases, RUN, known)).toEqual(found);
    const byBlue = { writesOn: 'green', epoch: epoch + 1 };
    expect(await whereWritesAre(greenAway(), RUN, epoch + 1)).toEqual(byBlue);
    // No decision of this promotion's: as of another run that has claimed green.
    await says('green', 'blue', epoch + 3);
    expect(await whereWritesAre(databases, RUN, epoch + 1)).toEqual(byBlue);
  });

  it('is asked before the way back is watched or ended: a blue that has them again refuses, one that was restored does not', async () => {
    const asked = (of = databases): Promise<void> => refuseWhileBlueServes(of, RUN, epoch + 1);
    await says('blue', 'green', epoch + 1);
    await says('green', 'green', epoch + 1);
    await asked();
    await says('blue', 'blue', epoch);
    await asked();
    await asked(greenAway());
    await says('blue', 'green', epoch + 1);
    await says('green', 'blue', epoch + 2);
    await expect(asked()).rejects.toMatchObject({ type: 'WritesOnBlue', retryable: false });
    await says('blue', 'blue', epoch + 2);
    await expect(asked(greenAway())).rejects.toMatchObject({ type: 'WritesOnBlue' });
  });
});

describe('whether green still has the writes that it was given', () => {
  const asked = () => writesOfGreen(databases, RUN.migration, epoch + 1);

  it('is what its own row says: not opened yet, has them, gave them away', async () => {
    await says('blue', 'green', epoch + 1);
    await says('green', 'blue', epoch);
    expect(await asked()).toBe('not opened');
    await says('green', 'green', epoch + 1);
    expect(await asked()).toBe('has them');
    // Decided for blue, which could not be opened: its own row is behind.
    await says('green', 'blue', epoch + 2);
    expect(await asked()).toBe('gave them away');
  });

  it('is not answered by guess', async () => {
    await expect(writesOfGreen(greenAway(), RUN.migration, epoch + 1)).rejects.toMatchObject({
      type: 'ConnectionFailed',
    });
  });
});
