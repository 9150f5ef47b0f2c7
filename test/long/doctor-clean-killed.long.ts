import pg from 'pg';
import { afterEach, describe, expect, it } from 'vitest';
import { clean, type CleanResult } from '../../src/postgres/doctor/clean.js';
import { examine } from '../../src/postgres/doctor/inventory.js';
import { planCleaning, type CleanOptions } from '../../src/postgres/doctor/plan-cleaning.js';
import { judge, whoIsPrimary } from '../../src/postgres/doctor/who-is-primary.js';
import { installDdlTriggers } from '../../src/postgres/ddl/event-trigger.js';
import type { Databases } from '../../src/postgres/session.js';
import type { Side } from '../../src/side.js';
import { closePatients, doctor, Patient } from '../support/doctor-patient.js';
import { StatementProxy, type Point } from '../support/statement-proxy.js';

afterEach(closePatients);

interface Ill {
  readonly of: string;
  readonly begin: () => Promise<Patient>;
  readonly release?: true;
  /** Where writes are. */
  readonly primary: Side;
  /** Which sides take writes in the end, and may do so on the way there. */
  readonly open: readonly Side[];
  /** What of ours is there in the end, but for triggers. */
  readonly left: Readonly<Record<Side, readonly string[]>>;
}

const STATE = ['schema verdigris'];

const ILL: readonly Ill[] = [
  {
    ...{ of: 'of a stage', begin: inStage, primary: 'blue' },
    ...{ open: ['blue', 'green'], left: { blue: [], green: [] } },
  },
  {
    ...{ of: 'of a standby window', begin: inStandby, primary: 'green' },
    ...{ open: ['green'], left: { blue: STATE, green: STATE } },
  },
  {
    ...{ of: 'of a standby window, blue being released', begin: inStandby, primary: 'green', release: true },
    ...{ open: ['blue', 'green'], left: { blue: [], green: STATE } },
  },
];

async function inStage(): Promise<Patient> {
  const patient = await (await Patient.create()).fenced();
  const epoch = await patient.epoch('blue');
  await patient.on('blue', (s) =>
    s.query('SELECT verdigris.set_green_read_percent($1, $2, 50)', [patient.migration, epoch]),
  );
  for (const side of ['blue', 'green'] as const) await patient.on(side, installDdlTriggers);
  return patient;
}

async function inStandby(): Promise<Patient> {
  return (await Patient.create()).promoted();
}

/** A cleaning by way of proxies, as it is typed. */
class Cleaning {
  private constructor(
    private readonly proxies: Readonly<Record<Side, StatementProxy>>,
    readonly begin: () => Promise<CleanResult[]>,
  ) {}

  static async plan({ databases, migration }: Patient, release?: true): Promise<Cleaning> {
    const found = await examine(databases);
    const options: CleanOptions = { release: release === true ? { blue: migration } : {} };
    const plan = planCleaning(found, judge(found), { state: 'over', why: 'it was terminated' }, options);
    if (plan.refused) throw new Error(plan.why);
    const proxies = {
      blue: await StatementProxy.start(Number(databases.blue.config.port)),
      green: await StatementProxy.start(Number(databases.green.config.port)),
    };
    const through = (side: Side): Databases[Side] => {
      const database = databases[side];
      return { ...database, config: { ...database.config, port: proxies[side].port } };
    };
    const own = { blue: through('blue'), green: through('green') };
    return new Cleaning(proxies, () => clean(own, found, plan.actions));
  }

  /** It is stopped at the first such statement, on either side. */
  stopWhere(matches: (point: Point) => boolean, when: 'before' | 'after'): Promise<{ release(): void }> {
    const { blue, green } = this.proxies;
    return Promise.race([blue.stopWhere(matches, when), green.stopWhere(matches, when)]);
  }

  /** What it has done is done; nothing of it is left, and nobody hears of it any more. */
  async kill(): Promise<void> {
    await Promise.all([this.proxies.blue.close(), this.proxies.green.close()]);
  }
}

const MOST_KILLS = 2;

function changes({ session, text }: Point): boolean {
  return (
    session.startsWith('verdigris doctor') &&
    /DROP|UPDATE|DELETE|TRUNCATE|ALTER|COMMIT|_drop_|set_green|setval/.test(text)
  );
}

/** Twice the same order: whatever the first has left undone. */
async function cleanedAgain(patient: Patient, { release, open, left }: Ill, what: string): Promise<void> {
  const named = release === true ? ['--release-blue', patient.migration] : [];
  const { code, text } = await doctor('--clean', '--yes', '--run-is-over', patient.migration, ...named);
  expect([code, code === 0 ? '' : text], what).toEqual([0, '']);
  expect(await patient.writable(), what).toEqual(open);
  for (const side of ['blue', 'green'] as const) {
    const ours = (await patient.left(side)).filter((one) => !one.startsWith('trigger '));
    expect(ours, `${what}: ${side}`).toEqual(left[side]);
  }
}

describe('verdigris doctor --clean, broken off', () => {
  it.each(ILL)('after each of its changes goes on when it is typed again, $of', { timeout: 120_000 }, async (ill) => {
    const { begin, release, primary, open } = ill;
    const patient = await begin();
    // What has not come into force is done again, and broken off there once more.
    const killed: string[] = [];
    const isDue = (point: Point): boolean =>
      changes(point) && killed.filter((text) => text === point.text).length < MOST_KILLS;
    for (let isHit = true; isHit;) {
      const cleaning = await Cleaning.plan(patient, release);
      const stopped = cleaning.stopWhere((point) => {
        if (!isDue(point)) return false;
        killed.push(point.text);
        return true;
      }, 'after');
      const done = cleaning.begin().catch((error: unknown) => error);
      isHit = await Promise.race([stopped.then(() => true), done.then(() => false)]);
      await cleaning.kill();
      await done;
      const last = killed.at(-1) ?? 'nothing';
      const writable = await patient.writable();
      expect(writable, last).toContain(primary);
      expect(
        writable.filter((side) => !open.includes(side)),
        last,
      ).toEqual([]);
      const { verdict } = await whoIsPrimary(patient.databases);
      // Blue is open before the last word of its run there is gone.
      if (release !== true) expect(verdict.kind, `${last}: ${verdict.why}`).not.toBe('both');
    }
    expect(new Set(killed).size).toBeGreaterThan(4);
    await cleanedAgain(patient, ill, 'in the end');
  });

  it('on one side, with the other one done, goes on there: blue that was released has nothing that says so', async () => {
    const patient = await inStandby();
    const named = ['--clean', '--yes', '--run-is-over', patient.migration, '--release-blue', patient.migration];
    const reader = new pg.Client(patient.green.config);
    await reader.connect();
    try {
      await reader.query('BEGIN; LOCK TABLE public.entries IN ACCESS SHARE MODE');
      const partly = await doctor(...named);
      expect(partly).toMatchObject({
        code: 1,
        text: expect.stringMatching(/FAILED {2}green: remove the fence/) as string,
      });
      expect(await patient.left('blue')).toEqual([]);
      await reader.query('COMMIT');
      expect(await doctor(...named)).toMatchObject({ code: 0 });
      expect(await patient.left('green')).toEqual(STATE);
      expect(await doctor(...named)).toMatchObject({ code: 0 });
    } finally {
      await reader.end();
    }
  });

  it('by a second one, which ends its sessions, does nothing more and says so', async () => {
    const [ill] = ILL;
    if (ill === undefined) throw new Error('nobody is ill');
    const patient = await ill.begin();
    const cleaning = await Cleaning.plan(patient);
    try {
      const stopped = cleaning.stopWhere(({ text }) => /pg_drop_replication_slot/.test(text), 'before');
      const first = cleaning.begin();
      const held = await stopped;
      // What the first one does on green until its session there is ended is news for the second, which goes by its look.
      const second = await doctor('--clean', '--yes', '--run-is-over', patient.migration);
      if (second.code !== 0) expect(second.text).toMatch(/is not any more as it was looked at/);
      await cleanedAgain(patient, ill, 'the second, or the third');
      held.release();
      const failed = (await first).filter((one) => one.failed !== null);
      expect(failed.map(({ action }) => action.kind)).toEqual(
        expect.arrayContaining(['dropSlot', 'dropPublication', 'dropSchema']),
      );
      expect(await patient.writable()).toEqual(ill.open);
      expect([await patient.left('blue'), await patient.left('green')]).toEqual([[], []]);
    } finally {
      await cleaning.kill();
    }
  });
});
