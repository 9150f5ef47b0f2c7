import { afterEach, describe, expect, it } from 'vitest';
import { releaseDatabase } from '../../src/postgres/ownership.js';
import { readOwner } from '../../src/postgres/state.js';
import { applyPreData } from '../../src/postgres/schema-copy/apply-pre-data.js';
import { openSession } from '../../src/postgres/session.js';
import { otherSide } from '../../src/side.js';
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
});

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
