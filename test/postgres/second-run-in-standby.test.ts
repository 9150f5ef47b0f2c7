import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { claimBlue, claimDatabases } from '../../src/postgres/ownership.js';
import { keptSessions, openActors } from '../../src/postgres/promotion-sessions.js';
import type { Databases } from '../../src/postgres/session.js';
import { BothOpenWatcher } from '../support/both-open-watcher.js';
import { closePatients, Patient } from '../support/doctor-patient.js';
import { asDatabase } from '../support/postgres.js';

let patient: Patient;

beforeAll(async () => {
  patient = await (await Patient.create()).promoted();
});

afterAll(closePatients);

const SECOND = { runId: 'run of the second', migration: 'second' };

/** Everything that a claim would write. */
async function stateOf(): Promise<unknown[]> {
  const on = (side: 'blue' | 'green'): Promise<unknown> =>
    patient.on(side, async (session) => {
      const { rows } = await session.query(
        `SELECT to_jsonb(o) AS owner, (SELECT jsonb_agg(r ORDER BY migration) FROM verdigris.route r) AS routes,
                (SELECT count(*) FROM verdigris.event) AS events, (SELECT last_value FROM verdigris.fence) AS flag,
                (SELECT jsonb_agg(m) FROM verdigris.marker_to_green m) AS markers
           FROM verdigris.owner o`,
      );
      return rows;
    });
  return [await on('blue'), await on('green')];
}

describe('a second run in the standby window of the first', () => {
  it.each<{ order: string; claim: typeof claimDatabases; exchanged: boolean }>([
    { order: 'of the same databases', claim: claimDatabases, exchanged: false },
    { order: 'of the same databases, green being a standby', claim: claimBlue, exchanged: false },
    { order: 'with blue and green exchanged', claim: claimDatabases, exchanged: true },
    { order: 'with blue and green exchanged, green being a standby', claim: claimBlue, exchanged: true },
  ])('$order is refused before anything is changed, and ends no session of the first', async ({ claim, exchanged }) => {
    const { blue, green } = patient;
    const databases: Databases = exchanged
      ? { blue: asDatabase(green, 'blue'), green: asDatabase(blue, 'green') }
      : patient.databases;
    const watcher = await BothOpenWatcher.start(patient.databases, 2);
    const { keep, closeAll } = keptSessions();
    try {
      const before = await stateOf();
      const actors = await openActors(patient.databases, 'green', keep);
      await expect(claim(databases, SECOND, 'flag')).rejects.toMatchObject({ type: 'DatabaseOwned' });
      for (const actor of [actors.main, actors.to]) {
        expect((await actor.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
      }
      expect(await stateOf()).toEqual(before);
      expect(await patient.writable()).toEqual(['green']);
    } finally {
      await closeAll();
      await watcher.stop();
    }
    expect(watcher.seen).toEqual([]);
    expect(watcher.looks).toBeGreaterThan(0);
  });
});
