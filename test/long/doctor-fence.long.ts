import { afterEach, describe, expect, it } from 'vitest';
import { armFence } from '../../src/postgres/fence.js';
import { Patient, doctor, closePatients, type Said } from '../support/doctor-patient.js';
import { withClient } from '../support/postgres.js';

afterEach(closePatients);

describe('verdigris doctor, of a fence that is not as the decision left it', () => {
  it('opens a side again that was closed without a decision', async () => {
    const patient = await (await Patient.create()).fenced();
    await patient.on('blue', async (s) => {
      await armFence(s, await patient.tables(s));
      await s.query(`SELECT setval('verdigris.fence', 1)`);
    });
    expect(await doctor('--who-is-primary')).toMatchObject({
      code: 1,
      text: expect.stringContaining('without a decision') as string,
    });
    expect(await doctor('--clean', '--yes')).toMatchObject({ code: 1 });
    expect(await doctor('--open', '--yes')).toMatchObject({ code: 0 });
    expect(await patient.writable()).toEqual(['blue']);
  });

  it('after a promotion tells a table of the closed side that was made anew, and closes it', async () => {
    const patient = await (await Patient.create()).promoted();
    await patient.on('blue', (s) => s.query('CREATE TABLE public.anew (LIKE public.accounts INCLUDING ALL)'));
    await patient.on('blue', (s) =>
      s.query('DROP TABLE public.accounts CASCADE; ALTER TABLE public.anew RENAME TO accounts'),
    );
    const both = await doctor('--who-is-primary');
    expect(both).toMatchObject({ code: 1, text: expect.stringContaining('both sides take writes') as string });
    expect(both.text).toContain('the fence is not in force on public.accounts');
    expect(await doctor('--close', '--yes')).toMatchObject({
      code: 0,
      text: expect.stringMatching(/primary {2}green, epoch \d+: blue is closed/) as string,
    });
    expect(await patient.writable()).toEqual(['green']);
  });

  it('closes only what the run has fenced, where no plan says what that is: writers of the rest go on', async () => {
    const patient = await (await Patient.create()).promoted();
    await patient.on('blue', (s) => s.query('CREATE SCHEMA audit; CREATE TABLE audit.log (id int)'));
    await patient.on('blue', (s) => s.query('ALTER TABLE public.accounts DISABLE TRIGGER _verdigris_fence'));
    const asked = await doctor('--close');
    expect(asked.text).toMatch(/would close blue, .* stop the writers of public\.accounts, public\.entries; add --yes/);
    expect(await doctor('--close', '--yes')).toMatchObject({ code: 0 });
    expect(await patient.writable()).toEqual(['green']);
    await patient.on('blue', (s) => s.query('INSERT INTO audit.log VALUES (1)'));
  });

  it('after a promotion tells a fence that was switched off, is certain with blue away and not with green away', async () => {
    const patient = await (await Patient.create()).promoted();
    await patient.on('blue', (s) => s.query('ALTER TABLE public.accounts DISABLE TRIGGER _verdigris_fence'));
    const both = await doctor('--who-is-primary');
    expect(both).toMatchObject({ code: 1, text: expect.stringContaining('both sides take writes') as string });
    expect(both.text).toContain('the fence is not in force on public.accounts');
    expect(await doctor('--clean', '--yes', '--release-blue', patient.migration)).toMatchObject({ code: 1 });
    expect((await patient.left('blue')).length).toBeGreaterThan(0);
    expect(await doctor('--close', '--yes')).toMatchObject({
      code: 0,
      text: expect.stringMatching(/primary {2}green, epoch \d+: blue is closed/) as string,
    });
    expect((await doctor('--close', '--yes')).text).toContain('nothing is to be closed');
    expect(await patient.writable()).toEqual(['green']);

    patient.away('blue');
    expect(await doctor('--who-is-primary')).toMatchObject({
      code: 0,
      text: expect.stringMatching(/^primary {2}green/) as string,
    });
    process.env['VERDIGRIS_CONNECTION_DOCTOR_BLUE'] = patient.blue.uri;
    patient.away('green');
    const asked = await doctor('--who-is-primary');
    expect(asked?.code).toBe(1);
    expect(asked.text).toMatch(/blue has given the writes to green at epoch \d+ and is closed; green can't be reached/);
    expect((await doctor('--clean', '--yes')).text).toContain(
      'blue: the fence and schema verdigris: who is primary is not certain',
    );
    expect(await patient.left('blue')).toContain('schema verdigris');
    expect((await patient.left('blue')).filter((what) => /^(slot|subscription|publication) /.test(what))).toEqual([]);
    expect(await patient.writable()).toEqual(['green']);
    patient.away('blue');
    expect(await doctor()).toMatchObject({ code: 2 });
    for (const flags of [['--who-is-primary'], ['--clean', '--yes'], ['--open', '--yes'], ['--close', '--yes']]) {
      expect([flags, (await doctor(...flags)).code]).toEqual([flags, 2]);
    }
  });
});

describe('verdigris doctor, of a side whose release by name was broken off', () => {
  const release = ({ migration }: Patient): Promise<Said> => doctor('--clean', '--yes', '--release-blue', migration);

  it('goes on with it when it is named again: half of the fence is gone, and nobody else has taken it', async () => {
    const patient = await (await Patient.create()).promoted();
    await withClient(patient.blue.config, async (reader) => {
      await reader.query('BEGIN; LOCK TABLE public.entries IN ACCESS SHARE MODE');
      const first = release(patient);
      const [armed, ends] = await withClient(patient.blue.config, async (other) => {
        const count = `SELECT count(*)::int AS n FROM pg_trigger WHERE tgname = '_verdigris_fence'`;
        const armedNow = async (): Promise<unknown> => (await other.query<{ n: number }>(count)).rows[0]?.n;
        await expect.poll(armedNow, { timeout: 20_000, interval: 20 }).toBe(1);
        const doctors = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE application_name = 'verdigris doctor clean' AND datname = current_database()`;
        return [await armedNow(), (await other.query(doctors)).rowCount];
      });
      expect([armed, ends]).toEqual([1, 1]);
      expect(await first).toMatchObject({
        code: 1,
        text: expect.stringMatching(/FAILED {2}blue: remove the fence of 2 tables/) as string,
      });
    });
    const asked = await doctor('--who-is-primary');
    expect(asked.code).toBe(1);
    expect(asked.text).toMatch(/both sides take writes: .*public\.accounts; it was released by name, and that was not/);
    expect(asked.text).toMatch(/next step: finish it: verdigris doctor .* --clean --yes --release-blue d-\w+\./);
    expect((await doctor()).text).toMatch(/its release by name was not finished: verdigris doctor /);
    expect(await doctor('--clean', '--yes')).toMatchObject({ code: 1 });
    expect((await patient.left('blue')).length).toBeGreaterThan(1);
    expect(await release(patient)).toMatchObject({ code: 0 });
    expect(await patient.left('blue')).toEqual([]);
    expect(await patient.writable()).toEqual(['blue', 'green']);
  });

  it('removes schema verdigris when others need it no more; closed again meanwhile, it is released no more', async () => {
    const patient = await (await Patient.create()).promoted();
    await patient.on('blue', (s) => s.query(`CREATE VIEW public.parsed AS SELECT verdigris.try_jsonb('1') AS value`));
    for (const time of ['first', 'second']) {
      const kept = await release(patient);
      expect([time, kept.code]).toEqual([time, 0]);
      expect(kept.text).toMatch(/blue: schema verdigris: these use it and would go with it: /);
      expect(await patient.left('blue')).toEqual(['schema verdigris']);
    }

    expect(await doctor('--close', '--yes')).toMatchObject({ code: 0 });
    expect(await patient.writable()).toEqual(['green']);
    await patient.on('blue', (s) => s.query('ALTER TABLE public.accounts DISABLE TRIGGER _verdigris_fence'));
    expect(await release(patient)).toMatchObject({
      code: 1,
      text: expect.stringContaining('next step: close blue at once') as string,
    });
    expect(await doctor('--close', '--yes')).toMatchObject({ code: 0 });

    await patient.on('blue', (s) => s.query('DROP VIEW public.parsed'));
    expect(await release(patient)).toMatchObject({ code: 0 });
    expect(await patient.left('blue')).toEqual([]);
    expect(await patient.writable()).toEqual(['blue', 'green']);
  });
});
