import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { run } from '../../src/cli/run.js';
import { installDdlTriggers } from '../../src/postgres/ddl/event-trigger.js';
import { openDecided } from '../../src/postgres/doctor/open.js';
import { whoIsPrimary } from '../../src/postgres/doctor/who-is-primary.js';
import { feedName } from '../../src/postgres/feed.js';
import { armFence } from '../../src/postgres/fence.js';
import { finishPromotion } from '../../src/postgres/finish-promotion.js';
import { installTrigger } from '../../src/postgres/migrate/install-trigger.js';
import { writeProgress } from '../../src/postgres/migrate/progress-row.js';
import { ensureSlot } from '../../src/postgres/replication-slot.js';
import { inTransaction } from '../../src/postgres/session.js';
import { lookAtStandby, type StandbyState } from '../../src/postgres/standby.js';
import { readOwner } from '../../src/postgres/state.js';
import { temporalClient, testTemporal } from '../support/temporal.js';
import { Patient, type Said, doctor, closePatients } from '../support/doctor-patient.js';

afterEach(closePatients);

describe('verdigris doctor', () => {
  it('lists what a terminated run left, removes it only when told to, and leaves nothing', async () => {
    const patient = await (await Patient.create()).fenced();
    const { migration } = patient;
    await patient.on('green', async (s) => {
      const table = { schema: 'public', name: 'accounts' };
      await s.query('ALTER TABLE public.accounts ADD COLUMN doubled int');
      const integer = { type: 'integer', collation: null };
      const column = { column: 'doubled', kind: 'compute' as const, up: 'balance * 2', reads: ['balance'], ...integer };
      const spec = { table, columns: [column], key: [], types: new Map([['balance', integer]]) };
      await inTransaction(s, () => installTrigger(s, spec, 'pg_catalog'));
      // As a build leaves it whose session was ended.
      await writeProgress(
        s,
        { runId: patient.runId, step: 'createIndex', object: 'public.accounts broken' },
        { ours: true },
        false,
      );
      await expect(s.query('CREATE UNIQUE INDEX CONCURRENTLY broken ON public.accounts ((1))')).rejects.toThrow();
      await expect(s.query('CREATE UNIQUE INDEX CONCURRENTLY foreign_one ON public.accounts ((1))')).rejects.toThrow();
      await s.query(
        `ALTER TABLE public.accounts ADD CONSTRAINT verdigris_not_null_0123456789abcdef CHECK (balance IS NOT NULL) NOT VALID`,
      );
    });
    // A second stream, as another number of streams makes it.
    await patient.on('blue', async (s) => {
      await ensureSlot(s, `${feedName(migration, 'to_green')}_2`);
      await s.query(`CREATE PUBLICATION ${feedName(migration, 'to_green')}_2`);
      await armFence(s, await patient.tables(s));
    });

    const listed = await doctor();
    expect(listed.code).toBe(1);
    for (const part of [
      /primary {2}blue, epoch \d+/,
      /run {6}is over: Temporal says that workflow verdigris\/d-\w+ is TERMINATED/,
      /owner +migration "d-.*no end written down/,
      /slot +verdigris_d_\w+_to_green_2, inactive/,
      /subscription +verdigris_d_\w+_to_green, enabled, 1 workers, 3 of 3 tables ready, 0 errors/,
      /origin +pg_\d+ of verdigris_d_\w+_to_green, at \S+/,
      /fence +closed, armed on 2 \(public.accounts, public.entries\)/,
      /trigger +up\/down on public.accounts/,
      /index +public.broken of public.accounts, INVALID/,
      /constraint +verdigris_not_null_0123456789abcdef/,
      /leftover green: left by a run that is over/,
    ]) {
      expect(listed.text).toMatch(part);
    }

    const before = [await patient.left('blue'), await patient.left('green')];
    const dryRun = await doctor('--clean');
    expect(dryRun).toMatchObject({ code: 0, text: expect.stringContaining('add --yes to do it') as string });
    expect([await patient.left('blue'), await patient.left('green')]).toEqual(before);

    const cleaned = await doctor('--clean', '--yes');
    expect(cleaned.text).not.toContain('FAILED');
    expect(cleaned.code).toBe(0);
    expect(cleaned.text).toContain(
      'green: index public.foreign_one: it is INVALID, but it is not known to be of this run',
    );
    expect([await patient.left('blue'), await patient.left('green')]).toEqual([[], []]);
    const { rows } = await patient.on('green', (s) =>
      s.query(`SELECT indexrelid::regclass::text AS name FROM pg_index WHERE NOT indisvalid`),
    );
    expect(rows).toEqual([{ name: 'public.foreign_one' }]);
    expect(await doctor('--clean', '--yes', '--run-is-over', migration)).toMatchObject({
      code: 0,
      text: expect.stringContaining('nothing is left that has to go') as string,
    });
    expect(await patient.writable()).toContain('blue');
  });

  it('refuses to clean while Temporal says that the run lives, or can not be asked; then cleans', async () => {
    const patient = await (await Patient.create()).replicated();
    const client = await temporalClient();
    try {
      const workflowId = `verdigris/${patient.migration}`;
      const handle = await client.workflow.start('blueGreenMigration', {
        workflowId,
        taskQueue: 'nobody-serves-this',
        args: [{}],
      });
      expect(await doctor('--clean', '--yes')).toMatchObject({
        code: 1,
        text: expect.stringContaining(`Temporal says that workflow ${workflowId} is RUNNING`) as string,
      });
      // A server that can't say it: here one without that namespace, which must not pass for "no such workflow".
      expect(await doctor('--clean', '--yes', '--namespace', 'nowhere')).toMatchObject({
        code: 1,
        text: expect.stringContaining('it counts as living: Temporal could not be asked') as string,
      });
      // Nor does a person's word stand against it.
      expect(await doctor('--clean', '--yes', '--run-is-over', patient.migration)).toMatchObject({
        code: 1,
        text: expect.stringMatching(/is RUNNING\nnext step: .*temporal workflow terminate --workflow-id/) as string,
      });
      expect((await patient.left('blue')).length).toBeGreaterThan(2);

      // Temporal is gone for good: a person says so, by name, and no worker's session may be there.
      const gone = ['--clean', '--namespace', 'nowhere'];
      expect(await doctor(...gone, '--run-is-over', 'another')).toMatchObject({ code: 1 });
      await patient.on('green', async () => {
        const refused = await doctor(...gone, '--run-is-over', patient.migration);
        expect(refused).toMatchObject({
          code: 1,
          text: expect.stringMatching(/sessions of a worker.* test\)/) as string,
        });
      });
      const dryRun = await doctor(...gone, '--run-is-over', patient.migration);
      expect(dryRun).toMatchObject({ code: 0, text: expect.stringContaining('add --yes') as string });
      await handle.terminate('the test says so');
      expect(await doctor('--clean', '--yes')).toMatchObject({ code: 0 });
      expect([await patient.left('blue'), await patient.left('green')]).toEqual([[], []]);
    } finally {
      await client.connection.close();
    }
  });

  it('never opens both sides: after a promotion blue keeps its fence, unless it is released by name', async () => {
    const patient = await (await Patient.create()).promoted();
    expect(await patient.writable()).toEqual(['green']);
    expect(await doctor('--who-is-primary')).toMatchObject({
      code: 0,
      text: expect.stringMatching(/^primary {2}green/) as string,
    });

    const cleaned = await doctor('--clean', '--yes');
    expect(cleaned.text).not.toContain('FAILED');
    expect(cleaned.code).toBe(0);
    expect(await patient.writable()).toEqual(['green']);
    expect((await patient.left('green')).filter((what) => what !== 'schema verdigris')).toEqual([]);
    expect((await patient.left('blue')).filter((what) => !/^(schema|trigger) /.test(what))).toEqual([]);
    for (const side of ['blue', 'green'] as const) {
      expect(await patient.on(side, readOwner)).toMatchObject({ outcome: 'cleaned' });
    }
    // Certain without any feed, and nothing to do again.
    expect(await doctor('--who-is-primary')).toMatchObject({
      code: 0,
      text: expect.stringContaining('blue is closed') as string,
    });
    expect((await doctor('--clean', '--yes')).text).toContain('nothing is left that has to go');
    expect(await doctor()).toMatchObject({ code: 0 });

    expect(await doctor('--clean', '--yes', '--release-blue', 'another')).toMatchObject({ code: 1 });
    expect(await doctor('--clean', '--yes', '--drop-copy', patient.migration)).toMatchObject({ code: 1 });
    expect(await patient.writable()).toEqual(['green']);
    expect(await doctor('--clean', '--yes', '--release-blue', patient.migration)).toMatchObject({ code: 0 });
    expect(await patient.left('blue')).toEqual([]);
    expect(await patient.writable()).toEqual(['blue', 'green']);
    // Green's row alone can't make that certain.
    expect(await doctor('--who-is-primary')).toMatchObject({
      code: 1,
      text: expect.stringMatching(/green, but both sides take writes.*released by name/s) as string,
    });
    expect(await doctor('--close', '--yes')).toMatchObject({ code: 1 });
  });

  it('drops no copy of a green whose run was reset after its rollback, and has claimed it again', async () => {
    const patient = await (await Patient.create()).fenced();
    for (const side of ['blue', 'green'] as const) {
      await patient.on(side, (s) => s.query('UPDATE verdigris.route SET epoch = epoch + 5'));
    }
    await patient.on('green', (s) =>
      s.query(
        `INSERT INTO verdigris.event (run_id, what, detail)
         SELECT $1, 'claimed green', jsonb_build_object('epoch', epoch) FROM verdigris.route`,
        [patient.runId],
      ),
    );
    expect(await doctor('--clean', '--drop-copy', patient.migration)).toMatchObject({
      code: 1,
      text: expect.stringContaining('green takes writes, or has taken some') as string,
    });
  });

  it('removes the event triggers of the run, and no others', async () => {
    const patient = await (await Patient.create()).replicated();
    for (const side of ['blue', 'green'] as const) {
      await patient.on(side, async (s) => {
        expect(await installDdlTriggers(s)).toBe(true);
        await s.query(
          `CREATE FUNCTION public.theirs() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
           CREATE EVENT TRIGGER theirs ON ddl_command_end EXECUTE FUNCTION public.theirs()`,
        );
      });
    }
    const listed = await doctor();
    expect(listed.text).toMatch(
      /event trigger +verdigris_ddl\n +event trigger +verdigris_ddl_drop|event trigger verdigris_ddl/,
    );
    expect(listed.text).toMatch(/left by a run that is over: .*event trigger verdigris_ddl/);
    expect(await doctor('--clean', '--yes')).toMatchObject({ code: 0 });
    for (const side of ['blue', 'green'] as const) {
      const { rows } = await patient.on(side, (s) => s.query('SELECT evtname FROM pg_event_trigger'));
      expect(rows).toEqual([{ evtname: 'theirs' }]);
    }
    await patient.on('green', (s) => s.query('CREATE TABLE public.later (id int)'));
  });

  it('frightens nobody where no run is under way: there never was one, or it has ended and was cleaned', async () => {
    const patient = await Patient.create();
    expect((await doctor()).text).toMatch(/^primary {2}not for Verdigris to say: neither side knows a run/);
    await patient.replicated();
    // Routers of an earlier migration read there, so the schema stays, with how the last run ended.
    await patient.on('blue', (s) => s.query(`INSERT INTO verdigris.route (migration) VALUES ('earlier')`));
    expect(await doctor('--clean', '--yes')).toMatchObject({ code: 0 });
    const { code, text } = await doctor();
    expect(code).toBe(0);
    expect(text).toMatch(/^primary {2}not for Verdigris to say: .*that of "d-\w+" has ended \(cleaned\)\n/);
    // A side that is closed without a word of any run is another matter.
    await patient.on('blue', async (s) => {
      await armFence(s, await patient.tables(s));
      await s.query(`SELECT setval('verdigris.fence', 1)`);
    });
    expect((await doctor()).text).toMatch(/^primary {2}not certain: /);
  });

  it('answers in JSON whatever it is asked', async () => {
    const patient = await (await Patient.create()).fenced();
    const json = async (...args: string[]): Promise<Record<string, unknown>> =>
      JSON.parse((await doctor('--json', ...args)).text) as Record<string, unknown>;
    const epoch = await patient.epoch('blue');
    expect(await json('--who-is-primary')).toMatchObject({ kind: 'certain', primary: 'blue', epoch });
    expect(await json()).toMatchObject({
      primary: { primary: 'blue' },
      run: { state: 'over' },
      blue: { reached: true, inventory: { owner: { migration: patient.migration } } },
      findings: expect.arrayContaining([expect.objectContaining({ severity: 'leftover', side: 'green' })]) as unknown,
    });
    const plan = await json('--clean');
    expect(plan).toMatchObject({ dryRun: true, refused: false, run: { state: 'over' } });
    expect(plan['actions']).toContainEqual({ kind: 'dropSchema', side: 'blue' });
    expect(await json('--clean', '--release-blue', 'wrong')).toMatchObject({ refused: true });
    const done = await json('--clean', '--yes');
    expect(done).toMatchObject({ dryRun: false });
    expect((done['results'] as { failed: string | null }[]).every(({ failed }) => failed === null)).toBe(true);
    expect(await json('--clean', '--yes', '--run-is-over', patient.migration)).toMatchObject({ results: [] });
    patient.away('green');
    const away = await doctor('--json');
    expect(JSON.parse(away.text)).toMatchObject({ green: { reached: false } });
    expect(away.text).not.toContain('secret-word');
  });

  it('takes a plan in place of the names: its connections, its name, its tables', async () => {
    const patient = await (await Patient.create()).fenced();
    await patient.on('green', (s) => s.query('CREATE TABLE public.left_out (id int)'));
    const folder = await mkdtemp(join(tmpdir(), 'doctor-'));
    try {
      const said = async (plan: object, ...args: string[]): Promise<Said> => {
        const file = join(folder, 'plan.json');
        await writeFile(file, JSON.stringify(plan));
        const lines: string[] = [];
        const say = (text: string): number => lines.push(text);
        const where = ['--address', testTemporal().address];
        const code = await run(['doctor', file, ...where, ...args], { out: say, note: say });
        return { code, text: lines.join('\n') };
      };
      const plan = {
        name: patient.migration,
        blue: { connection: 'doctor_blue' },
        green: { connection: 'doctor_green' },
        tables: { include: ['public.*'], exclude: ['public.left_out'] },
      };
      const listed = await said(plan);
      expect(listed.text).toMatch(/owner +migration "d-/);
      expect(listed.text).not.toContain('left_out');
      expect((await doctor()).text).toMatch(/no fence on public\.left_out/);
      expect(await said({ ...plan, name: 'Not A Name' })).toMatchObject({ code: 2 });
      await expect(said({ ...plan, blue: { connection: 'nobody_knows' } })).resolves.toMatchObject({
        code: 2,
        text: expect.stringContaining('VERDIGRIS_CONNECTION_NOBODY_KNOWS') as string,
      });
      // The plan of another migration may name other HAProxys, flags and tables than the run's.
      const another = { ...plan, name: 'another' };
      expect((await said(another)).text).toMatch(/problem .*plan of "another", and the databases belong to "d-/);
      expect(await said(another, '--clean', '--yes')).toMatchObject({
        code: 1,
        text: expect.stringContaining('verdigris doctor --blue doctor_blue --green doctor_green --clean') as string,
      });
      expect((await patient.left('blue')).length).toBeGreaterThan(2);
      expect(await said(plan, '--clean', '--yes')).toMatchObject({ code: 0 });
      expect([await patient.left('blue'), await patient.left('green')]).toEqual([[], []]);
      // Nothing of the run is left, so the plan's name is all that is known.
      expect((await said(plan)).text).toMatch(new RegExp(`workflow verdigris/${patient.migration}`));
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('of a decision that is half done says who is next, cleans nothing, and finishes it for that epoch only', async () => {
    const patient = await (await Patient.create()).fenced();
    // A COMMIT that is on its way is waited for: a plain read would still say blue.
    const asked = await patient.decide('blue', () => doctor('--who-is-primary'));
    const epoch = await patient.epoch('blue');
    expect(await patient.writable()).toEqual([]);
    expect(asked?.code).toBe(1);
    expect(asked?.text).toContain(`decided for green at epoch ${epoch}, not open yet: nobody takes writes`);
    expect(await doctor('--clean', '--yes')).toMatchObject({
      code: 1,
      text: expect.stringMatching(/doctor --blue \S+ --green \S+ --address \S+ --open --yes/) as string,
    });
    expect(await doctor('--open')).toMatchObject({
      code: 0,
      text: expect.stringContaining('would open green') as string,
    });
    // Without them the next command would not look at these.
    vi.stubEnv('VERDIGRIS_CONNECTION_POOL_1', 'postgres://admin@127.0.0.1:1/pgbouncer');
    expect((await doctor('--clean', '--yes', '--pgbouncer', 'pool_1')).text).toMatch(
      /doctor --blue \S+ --green \S+ --pgbouncer pool_1 --address \S+ --open --yes/,
    );
    vi.unstubAllEnvs();
    expect(await patient.writable()).toEqual([]);

    const { verdict } = await whoIsPrimary(patient.databases);
    expect(await doctor('--open', '--yes')).toMatchObject({
      code: 0,
      text: expect.stringMatching(/primary {2}green/) as string,
    });
    expect(await patient.writable()).toEqual(['green']);
    expect((await doctor('--open', '--yes')).text).toContain('nothing is to be opened');

    // The run goes on: the worker that lived finishes, and moves the writes back. A doctor that slept opens nothing.
    await finishPromotion(patient.databases, patient.migration, 'blue', { feedBack: false });
    await patient.decide('green');
    if (verdict.kind !== 'nobody') throw new Error('it was half done');
    await expect(openDecided(patient.databases, patient.migration, verdict)).rejects.toMatchObject({ code: 'VDEPO' });
    expect(await patient.writable()).toEqual([]);
  });

  it('opens a green as it is that was replaced by one which lacks its opening; until then nothing is finished', async () => {
    const patient = await (await Patient.create()).promoted('blue', false);
    const { databases, migration, runId } = patient;
    const epoch = await patient.epoch('green');
    // As a replica has it that was behind by this one record.
    await patient.on('green', (s) =>
      s.query(`UPDATE verdigris.route SET writes_on = 'blue', epoch = epoch - 1; SELECT setval('verdigris.fence', 1)`),
    );
    const finish = (): Promise<unknown> => finishPromotion(databases, migration, 'blue', { feedBack: true });
    const look = (): Promise<StandbyState> =>
      patient.on('green', (green) =>
        patient.on('blue', (blue) =>
          lookAtStandby(
            green,
            () => Promise.resolve(blue),
            { runId, migration },
            { maxLagMs: 20_000, maxRetainedWal: 1e12, epoch },
            new AbortController().signal,
          ),
        ),
      );
    const lacks = `green was opened for epoch ${epoch} and knows nothing of it, so nobody takes writes`;
    await expect(finish()).rejects.toMatchObject({
      ...{ type: 'NotOpened', retryable: true, message: expect.stringContaining(lacks) as string },
      nextStep: expect.stringMatching(/ --open --yes$/) as string,
    });
    expect(await look()).toMatchObject({
      ...{ health: 'notOpened', rollbackSafe: false, loses: null },
      why: expect.stringContaining(lacks) as string,
    });
    expect(await patient.writable()).toEqual([]);
    expect(await doctor('--open', '--yes')).toMatchObject({ code: 0 });
    expect(await patient.writable()).toEqual(['green']);
    expect(await finish()).toBeNull();
    expect(await look()).toMatchObject({ health: 'healthy' });
  });
});
