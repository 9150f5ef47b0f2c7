import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { clean } from '../../src/postgres/doctor/clean.js';
import { examine } from '../../src/postgres/doctor/inventory.js';
import { planCleaning } from '../../src/postgres/doctor/plan-cleaning.js';
import { judge } from '../../src/postgres/doctor/who-is-primary.js';
import { claimBlue, releaseDatabase } from '../../src/postgres/ownership.js';
import { indexKey } from '../../src/postgres/migrate/create-index.js';
import { leafIndexName } from '../../src/postgres/migrate/index-definition.js';
import { installTrigger } from '../../src/postgres/migrate/install-trigger.js';
import { writeProgress } from '../../src/postgres/migrate/progress-row.js';
import { keptSessions, openActors } from '../../src/postgres/promotion-sessions.js';
import { installState, readOwner } from '../../src/postgres/state.js';
import { applyPreData } from '../../src/postgres/schema-copy/apply-pre-data.js';
import { inTransaction, openSession } from '../../src/postgres/session.js';
import { otherSide } from '../../src/side.js';
import { withClient } from '../support/postgres.js';
import { Patient, terminatedRun, doctor, closePatients } from '../support/doctor-patient.js';

afterEach(closePatients);

describe('verdigris doctor --clean', () => {
  it('refuses to clean while the databases know of no end of their run, and Temporal of no such workflow', async () => {
    const patient = await (await Patient.create()).claimed();
    expect(await doctor('--clean', '--yes')).toMatchObject({
      code: 1,
      text: expect.stringMatching(
        /counts as living: Temporal knows no workflow verdigris\/d-\w+ in namespace \w+, but .* a run without an end/,
      ) as string,
    });
    expect(await patient.left('blue')).toContain('schema verdigris');
    expect(await doctor('--clean', '--yes', '--run-is-over', patient.migration)).toMatchObject({ code: 0 });
    expect(await patient.left('blue')).toEqual([]);
  });

  it('refuses to clean where Temporal knows of the end of another run only, unless it is told that ours is over', async () => {
    const patient = await (await Patient.create()).claimed();
    const earlier = await terminatedRun(patient.migration);
    expect(earlier).not.toBe(patient.runId);
    const refused = await doctor('--clean', '--yes');
    expect(refused.code).toBe(1);
    expect(refused.text).toMatch(
      /counts as living: .* is TERMINATED, which is another run than \S+, but .* a run without an end/,
    );
    expect(refused.text).toContain(patient.runId);
    expect(refused.text).toContain('--run-is-over');
    expect(await patient.left('blue')).toContain('schema verdigris');
    await patient.on('green', async () => {
      expect(await doctor('--clean', '--yes')).toMatchObject({
        code: 1,
        text: expect.stringContaining('but sessions of a worker are open') as string,
      });
    });
    expect(await doctor('--clean', '--yes', '--run-is-over', patient.migration)).toMatchObject({ code: 0 });
    expect(await patient.left('blue')).toEqual([]);
  });

  it('where sessions are open of a worker whose machine is gone, as a person says, names what ends them', async () => {
    const patient = await (await Patient.create()).claimed();
    // Nobody closes it: no FIN has come from that machine.
    const silent = await openSession(patient.databases.green, { purpose: 'watch' });
    silent.on('error', () => undefined);
    const told = ['--run-is-over', patient.migration];
    const refused = await doctor('--clean', '--yes', ...told);
    expect(refused.code).toBe(1);
    expect(refused.text).toMatch(/the run lives: sessions of a worker, .*green pid \d+: watch/);
    expect(refused.text).not.toContain('verdigris rollback');
    const [, statement = ''] = /on green: (SELECT pg_terminate_backend\(\d+\))\. Then again/.exec(refused.text) ?? [];
    await withClient(patient.green.config, (client) => client.query(statement));
    await expect.poll(() => doctor('--clean', '--yes', ...told)).toMatchObject({ code: 0 });
    expect(await patient.left('green')).toEqual([]);
  });

  it('removes what a claim that died between the two sides has installed on green, also when blue was cleaned before', async () => {
    const patient = await Patient.create();
    const run = { runId: patient.runId, migration: patient.migration };
    await claimBlue(patient.databases, run, 'flag');
    await patient.on('green', (s) => installState(s, 'green'));
    expect((await doctor('--clean', '--run-is-over', patient.migration)).text).toContain(
      'green: drop schema verdigris',
    );
    expect(await doctor('--clean', '--yes', '--run-is-over', patient.migration)).toMatchObject({ code: 0 });
    expect([await patient.left('blue'), await patient.left('green')]).toEqual([[], []]);
    await patient.on('green', (s) => installState(s, 'green'));
    expect(await doctor('--clean', '--yes', '--run-is-over', patient.migration)).toMatchObject({ code: 0 });
    expect(await patient.left('green')).toEqual([]);
  });

  it('drops an index of the run that a session of its dead worker builds still, and those of leaves', async () => {
    const patient = await (await Patient.create()).replicated();
    const leaf = { schema: 'public', name: 'days_1' };
    const ofLeaf = leafIndexName('days_at', leaf);
    await patient.on('green', async (s) => {
      await s.query(`CREATE TABLE public.days (at int PRIMARY KEY) PARTITION BY RANGE (at)`);
      await s.query(`CREATE TABLE public.days_1 PARTITION OF public.days FOR VALUES FROM (1) TO (2)`);
      await s.query(`CREATE INDEX ${ofLeaf} ON public.days_1 (at)`);
      await s.query('UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::regclass', [`public.${ofLeaf}`]);
      for (const [table, name] of [
        ['days', 'days_at'],
        ['accounts', 'accounts_balance'],
      ] as const) {
        await writeProgress(s, indexKey(patient.runId, { schema: 'public', name: table }, name), { ours: true }, false);
      }
    });
    const cleaned = await withClient(patient.green.config, async (application) => {
      await application.query('BEGIN; LOCK TABLE public.accounts IN ROW EXCLUSIVE MODE');
      const builder = await openSession(patient.databases.green, { purpose: 'index' });
      builder.on('error', () => undefined);
      const built = builder.query('CREATE INDEX CONCURRENTLY accounts_balance ON public.accounts (balance)');
      built.catch(() => undefined);
      await expect
        .poll(() => doctor())
        .toMatchObject({
          text: expect.stringContaining('accounts_balance of public.accounts, being built') as string,
        });
      const cleaning = doctor('--clean', '--yes');
      await expect(built).rejects.toThrow();
      await application.query('COMMIT');
      return cleaning;
    });
    expect(cleaned.text).not.toContain('FAILED');
    expect(cleaned).toMatchObject({
      code: 0,
      text: expect.stringContaining(`INVALID index public.${ofLeaf}`) as string,
    });
    expect((await doctor()).text).not.toContain('INVALID');
    const { rows } = await withClient(patient.green.config, (client) =>
      client.query('SELECT FROM pg_index WHERE NOT indisvalid'),
    );
    expect(rows).toEqual([]);
  });

  it('opens a green that has been primary only when it is released by the name of its migration', async () => {
    const patient = await (await Patient.create()).promoted();
    await patient.promoted('green');
    const wrong = await doctor('--clean', '--yes', '--release-green', 'another-one');
    expect(wrong).toMatchObject({ code: 1, text: expect.stringContaining(`(it is "${patient.migration}")`) as string });
    expect(await patient.writable()).toEqual(['blue']);
    expect(await doctor('--clean', '--yes', '--release-green', patient.migration)).toMatchObject({ code: 0 });
    expect(await patient.writable()).toEqual(['blue', 'green']);
    expect([await patient.left('blue'), await patient.left('green')]).toEqual([[], []]);
  });

  it('keeps the triggers that fill NOT NULL columns for writers, names the columns, and drops them when told so', async () => {
    const patient = await (await Patient.create()).promoted();
    const writes = 'INSERT INTO public.accounts (id, balance) SELECT max(id) + 1, 0 FROM public.accounts';
    await patient.on('green', async (s) => {
      await s.query(`ALTER TABLE public.accounts ADD region text, ADD note text, ADD kind text DEFAULT 'a' NOT NULL`);
      const text = { type: 'text', collation: null };
      const columns = ['region', 'note', 'kind'].map((column) => ({
        ...{ column, kind: 'compute' as const, up: `'eu'`, reads: [], ...text },
      }));
      const spec = { table: { schema: 'public', name: 'accounts' }, columns, key: ['id'], types: new Map() };
      await inTransaction(s, () => installTrigger(s, spec, 'public'));
      await s.query(`UPDATE public.accounts SET region = 'eu'; ALTER TABLE public.accounts ALTER region SET NOT NULL`);
    });
    const planned = await doctor('--clean');
    expect(planned.text).toMatch(/stays:[^]*up\/down triggers of 1 tables.*: public\.accounts\.region\. When/);
    expect(planned.text).not.toContain('drop the up/down triggers');
    expect(await doctor('--clean', '--yes')).toMatchObject({ code: 0 });
    const kept = await doctor();
    expect(kept).toMatchObject({
      code: 0,
      text: expect.stringMatching(/note +green: kept,.*--drop-triggers/s) as string,
    });
    await patient.on('green', (s) => s.query(writes));
    expect(await doctor('--clean', '--yes', '--drop-triggers', patient.migration)).toMatchObject({ code: 0 });
    await patient.on('green', (s) => expect(s.query(writes)).rejects.toThrow(/"region".*not-null/));
  });

  it("drops the run's copy when told so, what others have made in it stays and keeps the schema; never from a green that took writes", async () => {
    const patient = await (await Patient.create()).fenced();
    const { migration } = patient;
    await patient.on('green', (session) =>
      applyPreData(
        {
          ...{ runId: patient.runId, session, signal: new AbortController().signal, onProgress: () => undefined },
          connect: (purpose) => openSession(patient.databases.green, { purpose }),
        },
        ['CREATE SCHEMA copied', 'CREATE TABLE copied.one (id int)', 'CREATE TABLE copied.two (id int)'],
      ),
    );
    expect((await doctor()).text).toMatch(/copy +3 objects made by the run's schema copy/);
    expect((await doctor('--clean')).text).toMatch(/green: 3 objects .*--drop-copy d-/);
    expect(await doctor('--clean', '--yes', '--drop-copy', 'other')).toMatchObject({ code: 1 });
    await patient.on('green', (s) => s.query('CREATE VIEW copied.theirs AS SELECT 1 AS n'));
    const partly = await doctor('--clean', '--yes', '--drop-copy', migration);
    expect(partly.code).toBe(1);
    expect(partly.text).toMatch(/FAILED {2}green: drop the 3 objects .*these are not empty and stay: copied/);
    // What says whose the rest is stays until nothing is left.
    expect(await patient.left('green')).toEqual(expect.arrayContaining(['schema verdigris', 'schema copied']));
    expect(await patient.writable()).toContain('blue');

    const promoted = await (await Patient.create()).promoted();
    const refused = await doctor('--clean', '--yes', '--drop-copy', promoted.migration);
    expect(refused).toMatchObject({ code: 1, text: expect.stringContaining('its rows may be nowhere else') as string });
  });

  it('names --drop-copy only as long as it is known what the copy has made', async () => {
    const patient = await (await Patient.create()).fenced();
    const { migration, runId } = patient;
    await patient.on('green', (session) =>
      applyPreData(
        {
          ...{ runId, session, signal: new AbortController().signal, onProgress: () => undefined },
          connect: (purpose) => openSession(patient.databases.green, { purpose }),
        },
        ['CREATE TABLE public.copied (id int)'],
      ),
    );
    expect((await doctor('--clean')).text).toMatch(new RegExp(`green: 1 objects .*--drop-copy ${migration}`));
    const cleaned = await doctor('--clean', '--yes');
    expect(cleaned.text).toMatch(/green: 1 objects .*drop them by hand/);
    expect(cleaned.text).not.toContain('--drop-copy');
    // What it would have said to do.
    expect(await doctor('--clean', '--yes', '--drop-copy', migration)).toMatchObject({ code: 1 });
  });

  it('keeps schema verdigris where objects of others use it, names them, and removes it when they are gone', async () => {
    const patient = await (await Patient.create()).replicated();
    await patient.on('green', (s) => s.query(`CREATE VIEW public.parsed AS SELECT verdigris.try_jsonb('1') AS value`));
    const kept = await doctor('--clean', '--yes');
    expect(kept).toMatchObject({ code: 0 });
    expect(kept.text).toMatch(
      /green: schema verdigris: these use it and would go with it: (rule .*|view )public\.parsed/,
    );
    expect(await patient.left('green')).toEqual(['schema verdigris']);
    expect((await patient.on('green', readOwner))?.outcome).toBe('cleaned');
    await patient.on('green', (s) => s.query('DROP VIEW public.parsed'));
    expect(await doctor('--clean', '--yes', '--run-is-over', patient.migration)).toMatchObject({ code: 0 });
    expect(await patient.left('green')).toEqual([]);
  });

  it('leaves an index whose build has come to its end since the look', async () => {
    const patient = await (await Patient.create()).replicated();
    const asValid = (isValid: boolean): Promise<unknown> =>
      patient.on('green', (s) =>
        s.query(`UPDATE pg_index SET indisvalid = $1 WHERE indexrelid = 'public.by_balance'::regclass`, [isValid]),
      );
    await patient.on('green', async (s) => {
      await s.query('CREATE INDEX by_balance ON public.accounts (balance)');
      const key = indexKey(patient.runId, { schema: 'public', name: 'accounts' }, 'by_balance');
      await writeProgress(s, key, { ours: true }, false);
    });
    await asValid(false);
    const cleanNow = await planned(patient);
    await asValid(true);
    await cleanNow();
    await asValid(true);
  });

  it('does nothing where a worker has moved the writes since the look, there or back', async () => {
    const patient = await (await Patient.create()).fenced();
    for (const from of ['blue', 'green'] as const) {
      const cleanUp = await planned(patient);
      await patient.moved(from);
      const left = [await patient.left('blue'), await patient.left('green')];
      await expect(cleanUp()).rejects.toMatchObject({
        type: 'StaleEpoch',
        message: expect.stringContaining(`writes on ${from}, epoch`) as string,
      });
      expect([await patient.left('blue'), await patient.left('green')]).toEqual(left);
      expect(await patient.writable()).toEqual([otherSide(from)]);
    }
    expect(await doctor('--clean', '--yes')).toMatchObject({ code: 0 });
    expect(await patient.writable()).toEqual(['blue']);
  });

  it('waits for the try of a promotion that is under way, and does nothing where it has decided', async () => {
    const patient = await (await Patient.create()).fenced();
    const cleanUp = await planned(patient);
    const left = await patient.left('green');
    const { keep, closeAll } = keptSessions();
    try {
      await openActors(patient.databases, 'blue', keep);
      const cleaning = expect(cleanUp()).rejects.toMatchObject({ type: 'StaleEpoch' });
      await sleep(500);
      await patient.decide('blue');
      await closeAll();
      await cleaning;
    } finally {
      await closeAll();
    }
    expect(await patient.left('green')).toEqual(left);
    expect(await doctor('--open', '--yes')).toMatchObject({ code: 0 });
    expect(await patient.writable()).toEqual(['green']);
  });
});

/** What a cleaning would do now, and how it is done later. */
async function planned({ databases, migration }: Patient): Promise<() => Promise<unknown>> {
  const found = await examine(databases);
  const plan = planCleaning(
    found,
    judge(found),
    { state: 'over', why: `${migration} was terminated` },
    { release: {} },
  );
  if (plan.refused) throw new Error(plan.why);
  return () => clean(databases, found, plan.actions);
}

describe('verdigris doctor', () => {
  it('keeps a green fenced that has been primary, when writes are back on blue', async () => {
    const patient = await (await Patient.create()).promoted();
    await patient.promoted('green');
    expect(await doctor('--clean', '--yes')).toMatchObject({ code: 0 });
    expect(await patient.writable()).toEqual(['blue']);
    expect(await patient.left('blue')).toEqual([]);
    expect(await doctor('--who-is-primary')).toMatchObject({
      code: 0,
      text: expect.stringMatching(/^primary {2}blue/) as string,
    });
  });

  it('with a side away says what is certain, cleans the other one, and never says a password', async () => {
    const patient = await (await Patient.create()).fenced();
    patient.away('green');
    expect(await doctor('--who-is-primary')).toMatchObject({
      code: 0,
      text: expect.stringMatching(/^primary {2}blue/) as string,
    });
    const cleaned = await doctor('--clean', '--yes');
    expect(cleaned.code).toBe(1);
    expect(cleaned.text).not.toContain('FAILED');
    expect(cleaned.text).not.toContain('secret-word');
    expect(await patient.left('blue')).toEqual([]);

    process.env['VERDIGRIS_CONNECTION_DOCTOR_GREEN'] = patient.green.uri;
    expect(await doctor('--clean', '--yes')).toMatchObject({ code: 0 });
    expect(await patient.left('green')).toEqual([]);
  });

  it('touches nothing where the names are mixed up, or where nothing of Verdigris is', async () => {
    const patient = await Patient.create();
    expect(await doctor('--who-is-primary')).toMatchObject({
      code: 1,
      text: expect.stringContaining('neither side knows a run') as string,
    });
    await patient.replicated();
    await patient.on('blue', (s) =>
      releaseDatabase(s, { runId: patient.runId, migration: patient.migration }, 'rolledBack'),
    );
    const { blue, green } = patient;
    process.env['VERDIGRIS_CONNECTION_DOCTOR_BLUE'] = green.uri;
    process.env['VERDIGRIS_CONNECTION_DOCTOR_GREEN'] = blue.uri;
    const left = await patient.left('blue');
    const mixed = await doctor('--clean', '--yes');
    expect(mixed).toMatchObject({
      code: 1,
      text: expect.stringContaining(`given as blue is the ${otherSide('blue')} of`) as string,
    });
    expect(await patient.left('blue')).toEqual(left);
  });
});
