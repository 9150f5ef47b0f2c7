import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { rollbackActivities } from '../../activities/rollback.js';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { planSchema } from '../../src/plan/schema.js';
import { readFenceTriggers } from '../../src/postgres/doctor/read-fence.js';
import { writeFlagdFile } from '../../src/flags/flagd-file.js';
import { feedName } from '../../src/postgres/feed.js';
import { armFence, dropFence } from '../../src/postgres/fence.js';
import { waitForMarker, writeMarker } from '../../src/postgres/marker.js';
import { NewestRoute } from '../../src/postgres/newest-route.js';
import { dropState, releaseDatabase } from '../../src/postgres/ownership.js';
import { dropSlot, ensureSlot } from '../../src/postgres/replication-slot.js';
import { hasState, installState, readOwner, readRoute } from '../../src/postgres/state.js';
import { configOf, findHaproxy, TestHaproxy } from '../support/haproxy.js';
import { testDatabase, withClient } from '../support/postgres.js';
import { temporalClient, testTemporal } from '../support/temporal.js';
import { PATTERNS, Patient, type Said, typed, doctor, doctorOf, closePatients } from '../support/doctor-patient.js';

afterEach(closePatients);

describe('verdigris doctor --clean while a stage leads reads to green', () => {
  const STAGE = { stages: [{ percent: 50, for: '1h' }], gates: [{ metric: 'lag' as const, max: '5s' }] };

  async function inStage(): Promise<Patient> {
    const patient = await (await Patient.create()).fenced();
    const epoch = await patient.epoch('blue');
    await patient.on('blue', (s) =>
      s.query('SELECT verdigris.set_green_read_percent($1, $2, 50)', [patient.migration, epoch]),
    );
    return patient;
  }

  it("writes flagd's file back before the feed ends, and is refused where the file is not", async () => {
    const patient = await inStage();
    const folder = await mkdtemp(join(tmpdir(), 'doctor-'));
    const path = join(folder, 'flags.json');
    const plan = { ...STAGE, flagd: { path } };
    try {
      const left = await patient.left('green');
      const elsewhere = await doctorOf(patient, plan, '--clean', '--yes');
      expect(elsewhere.code).toBe(1);
      expect(elsewhere.text).toMatch(/refused: flagd leads 50 % of its users to green, .* is not here/);
      expect(await patient.left('green')).toEqual(left);

      const route = await patient.on('blue', (s) => readRoute(s, patient.migration));
      if (route === undefined) throw new Error('it has a route');
      await writeFlagdFile(path, { run: patient.runId, route });
      expect(await readFile(path, 'utf8')).toContain('fractional');
      expect((await doctorOf(patient, plan, '--clean')).text).toContain(`write the file for flagd, ${path}`);
      expect(await readFile(path, 'utf8')).toContain('fractional');
      const cleaned = await doctorOf(patient, plan, '--clean', '--yes');
      expect(cleaned.text).not.toContain('FAILED');
      expect(cleaned.code).toBe(0);
      expect(cleaned.text).toContain('everybody on blue');
      const { flags } = JSON.parse(await readFile(path, 'utf8')) as { flags: Record<string, object> };
      expect(Object.values(flags)[0]).toMatchObject({ defaultVariant: 'blue' });
      expect(Object.values(flags)[0]).not.toHaveProperty('targeting');
      expect([await patient.left('blue'), await patient.left('green')]).toEqual([[], []]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('by green alone ends nothing that its readers need, whatever has been written for flagd, until blue is back', async () => {
    const patient = await inStage();
    const folder = await mkdtemp(join(tmpdir(), 'doctor-'));
    const path = join(folder, 'flags.json');
    const plan = { ...STAGE, flagd: { path } };
    try {
      const route = await patient.on('blue', (s) => readRoute(s, patient.migration));
      if (route === undefined) throw new Error('it has a route');
      await writeFlagdFile(path, { run: patient.runId, route });
      const before = await readFile(path, 'utf8');
      patient.away('blue');
      // Of a worker: it is ended all the same.
      const alone = await patient.on('green', () => doctorOf(patient, plan, '--clean', '--yes'));
      expect(alone.code).toBe(1);
      expect(alone.text).toMatch(/done +green: end the session/);
      expect(alone.text).not.toContain('refused');
      const feed = feedName(patient.migration, 'to_green');
      expect(alone.text).toMatch(
        new RegExp(`green: subscription ${feed}: a stage may be open.*DROP SUBSCRIPTION "${feed}"`),
      );
      expect((await patient.left('green')).some((what) => what.startsWith('subscription'))).toBe(true);
      expect(await readFile(path, 'utf8')).toBe(before);
      // What it names for a blue that never comes back.
      const [, statements = ''] = /on green: (ALTER SUBSCRIPTION .*;)$/m.exec(alone.text) ?? [];
      expect(statements).toContain('SET (slot_name = NONE)');

      process.env['VERDIGRIS_CONNECTION_DOCTOR_BLUE'] = patient.blue.uri;
      expect(await doctorOf(patient, plan, '--clean', '--yes')).toMatchObject({ code: 0 });
      expect(await readFile(path, 'utf8')).not.toContain('fractional');
      expect([await patient.left('blue'), await patient.left('green')]).toEqual([[], []]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('without a plan says what it does not see; routers go back where the schema has to stay', async () => {
    const patient = await inStage();
    await patient.on('blue', (s) => s.query(`CREATE VIEW public.parsed AS SELECT verdigris.try_jsonb('1') AS value`));
    const cleaned = await doctor('--clean', '--yes');
    expect(cleaned.text).not.toContain('FAILED');
    expect(cleaned.text).toMatch(/green: 50 % of the reads, where a HAProxy or flagd shares them: .*give the plan/);
    expect(await patient.left('blue')).toContain('schema verdigris');
    const route = await patient.on('blue', (s) => readRoute(s, patient.migration));
    expect(route).toMatchObject({ writesOn: 'blue', greenReadPercent: 0 });
  });

  it.skipIf(findHaproxy() === undefined)(
    'is refused while a HAProxy of the plan leads there, or can not be asked, and names the command',
    async () => {
      const patient = await inStage();
      const haproxy = await TestHaproxy.start(configOf({ blue: patient.blue.port, green: patient.green.port }));
      const plan = { ...STAGE, haproxy: { backend: 'reads', instances: ['doctor_haproxy'] } };
      try {
        expect((await doctorOf(patient, plan, '--clean', '--yes')).text).toContain(
          'VERDIGRIS_CONNECTION_DOCTOR_HAPROXY',
        );
        process.env['VERDIGRIS_CONNECTION_DOCTOR_HAPROXY'] = haproxy.uri;
        await haproxy.ask('set server reads/blue weight 100; set server reads/green weight 100');
        const refused = await doctorOf(patient, plan, '--clean', '--yes');
        expect(refused.code).toBe(1);
        expect(refused.text).toContain('HAProxy "doctor_haproxy" gives green the weight 100, and has 0 connections');
        expect((await patient.left('green')).some((what) => what.startsWith('subscription'))).toBe(true);
        // The command that it names puts it right.
        const [, command = ''] = /echo '([^']+)' \| socat/.exec(refused.text) ?? [];
        await haproxy.ask(command);
        expect(await haproxy.weights()).toBe('200/0');
        expect(await doctorOf(patient, plan, '--clean', '--yes')).toMatchObject({ code: 0 });
        expect([await patient.left('blue'), await patient.left('green')]).toEqual([[], []]);
      } finally {
        delete process.env['VERDIGRIS_CONNECTION_DOCTOR_HAPROXY'];
        await haproxy.stop();
      }
    },
  );
});

describe('the commands that the doctor names', () => {
  it('run as they stand: with the plan or the names that it was given', async () => {
    const patient = await (await Patient.create()).fenced();
    await patient.on('blue', async (s) => {
      await armFence(s, await patient.tables(s));
      await s.query(`SELECT setval('verdigris.fence', 1)`);
    });
    expect((await doctorOf(patient, {}, '--who-is-primary')).text).toMatch(
      /where none does: verdigris doctor \/\S+\/plan\.json --address \S+ --open --yes/,
    );
    const json = await doctor('--json');
    expect(() => JSON.parse(json.text) as unknown).not.toThrow();
    expect(json.text).toMatch(/verdigris doctor --blue doctor_blue --green doctor_green --address \S+ --open --yes/);
    const [, words = ''] = /where none does: verdigris (.*)/.exec((await doctor('--who-is-primary')).text) ?? [];
    expect(await typed(...words.split(' '))).toMatchObject({ code: 0 });
    expect(await patient.writable()).toEqual(['blue']);
  });
});

describe('a new run', () => {
  it('that has taken green over as its blue keeps nobody from cleaning up the blue before it, and is not touched', async () => {
    const patient = await (await Patient.create()).promoted();
    const { migration } = patient;
    const third = await testDatabase('pg18', 'doctor third');
    try {
      // As a retirement ends whose blue was away.
      await patient.on('green', async (s) => {
        await dropSlot(s, feedName(migration, 'to_blue'));
        await s.query(`DROP PUBLICATION ${feedName(migration, 'to_blue')}`);
        await dropFence(s);
        await releaseDatabase(s, { runId: patient.runId, migration }, 'completed');
      });
      await patient.next('green', 'another', third);
      await patient.on('green', async (s) => {
        await s.query(`CREATE PUBLICATION ${feedName('another', 'to_green')}`);
        await ensureSlot(s, feedName('another', 'to_green'));
        await armFence(s, await patient.tables(s));
      });
      const before = await patient.left('green');
      const route = await patient.on('green', (s) => readRoute(s, 'another'));

      const asked = await doctor('--who-is-primary');
      expect(asked.code).toBe(1);
      expect(asked.text).toContain(`green has been handed on from migration "${migration}" to "another"`);
      await patient.on('green', async () => {
        const listed = await doctor();
        expect(listed.text).toContain('green (it belongs to migration "another" by now)');
        expect(listed.text).not.toMatch(/another_to_green/);
        const cleaned = await doctor('--clean', '--yes');
        expect(cleaned.text).not.toContain('FAILED');
        expect(cleaned.code).toBe(0);
      });
      expect((await patient.left('blue')).filter((what) => !/^(schema|trigger) /.test(what))).toEqual([]);
      expect(await patient.on('blue', readOwner)).toMatchObject({ runId: patient.runId, outcome: 'cleaned' });
      expect(await patient.left('green')).toEqual(before);
      expect(await patient.on('green', readOwner)).toMatchObject({ migration: 'another', outcome: null });
      expect(await patient.on('green', (s) => readRoute(s, 'another'))).toEqual(route);
      expect(await patient.writable()).toEqual(['green']);

      // By name it can be had back, as a database of its own; names that are mixed up are refused.
      const exchanged = ['--blue', 'doctor_green', '--green', 'doctor_blue', '--address', testTemporal().address];
      expect(await typed('doctor', ...exchanged, '--clean', '--yes')).toMatchObject({ code: 1 });
      expect(await doctor('--clean', '--yes', '--release-blue', 'another')).toMatchObject({ code: 1 });
      expect(await doctor('--clean', '--yes', '--release-blue', migration)).toMatchObject({ code: 0 });
      expect(await patient.left('blue')).toEqual([]);
      expect(await patient.left('green')).toEqual(before);
      // What is left there would hinder the drop of the database.
      await patient.on('green', (s) => dropSlot(s, feedName('another', 'to_green')));
    } finally {
      await third.drop();
    }
  });

  it('of another name on the blue that was rolled back to keeps nobody from cleaning up, or releasing, the green that was kept', async () => {
    const patient = await (await Patient.create()).promoted();
    await patient.promoted('green');
    const { migration } = patient;
    const third = await testDatabase('pg18', 'doctor third');
    try {
      await patient.ended('rolledBack');
      await patient.on('blue', async (s) => {
        await dropFence(s);
        await s.query('DROP SCHEMA verdigris CASCADE');
        // Epochs begin with blue's clock, and this run has moved the writes twice in less than two seconds.
        await s.query('SELECT pg_sleep(2.5)');
      });
      await patient.next('blue', 'another', third);
      const [left, route] = [await patient.left('blue'), await patient.on('blue', (s) => readRoute(s, 'another'))];

      expect((await doctor('--who-is-primary')).text).toContain(
        `blue has been handed on from migration "${migration}" to "another"`,
      );
      expect((await doctor()).text).toContain('blue (it belongs to migration "another" by now)');
      const cleaned = await doctor('--clean', '--yes');
      expect(cleaned).toMatchObject({
        code: 0,
        text: expect.stringContaining(`--release-green ${migration}`) as string,
      });
      expect(await patient.writable()).toEqual(['blue']);
      expect(await doctor('--clean', '--yes', '--release-green', 'another')).toMatchObject({ code: 1 });
      expect(await doctor('--clean', '--yes', '--release-green', migration)).toMatchObject({ code: 0 });
      expect(await patient.left('green')).toEqual([]);
      expect(await patient.left('blue')).toEqual(left);
      expect(await patient.on('blue', (s) => readRoute(s, 'another'))).toEqual(route);

      // A green whose run knows of no end may be that of another blue.
      await patient.on('green', async (s) => {
        await installState(s, 'green');
        await s.query(`INSERT INTO verdigris.owner (run_id, migration, side) VALUES ('run-3', $1, 'green')`, [
          migration,
        ]);
        await s.query(`INSERT INTO verdigris.route (migration, writes_on) VALUES ($1, 'blue')`, [migration]);
      });
      expect(await doctor('--clean', '--yes')).toMatchObject({
        code: 1,
        text: expect.stringContaining('ask with the two databases of one migration') as string,
      });
    } finally {
      await third.drop();
    }
  });

  it('never takes a retired blue for its blue, cleaned or not; the primary green it does, and what is released by name', async () => {
    const patient = await (await Patient.create()).promoted();
    const { migration } = patient;
    const third = await testDatabase('pg18', 'doctor third');
    try {
      await patient.ended('completed');
      const before = await patient.on('blue', (s) => readRoute(s, migration));
      for (const name of ['another', migration]) {
        await expect(patient.next('blue', name, third)).rejects.toMatchObject({
          type: 'BlueGivenAway',
          message: expect.stringMatching(/it has given its writes to green at epoch \d+/) as string,
          nextStep: expect.stringContaining(`--release-blue ${migration}`) as string,
        });
      }
      expect(await patient.writable()).toEqual(['green']);
      expect(await patient.on('blue', (s) => readRoute(s, migration))).toEqual(before);
      expect(await patient.on('blue', readOwner)).toMatchObject({ runId: patient.runId, outcome: 'completed' });

      // The flag alone is enough.
      await patient.on('blue', (s) => s.query(`UPDATE verdigris.route SET writes_on = 'blue'`));
      await expect(patient.next('blue', 'another', third)).rejects.toMatchObject({
        type: 'BlueGivenAway',
        message: expect.stringContaining('its fence is closed') as string,
      });
      await patient.on('blue', (s) => s.query(`UPDATE verdigris.route SET writes_on = 'green'`));

      expect(await doctor('--clean', '--yes', '--release-blue', migration)).toMatchObject({ code: 0 });
      expect(await patient.next('blue', 'released', third)).toBeGreaterThan(0);
      await withClient(third.config, (client) => client.query('DROP SCHEMA verdigris CASCADE'));
      const epoch = await patient.next('green', 'another', third);
      expect(epoch).toBeGreaterThan(before?.epoch ?? 0);
      expect(await patient.writable()).toContain('green');
    } finally {
      await third.drop();
    }
  });

  it('has a name of its own: routers of a migration that has moved the writes know that one', async () => {
    const patient = await (await Patient.create()).promoted();
    const third = await testDatabase('pg18', 'doctor third');
    try {
      await patient.ended('completed');
      const taken = { type: 'NameTaken', message: expect.stringContaining(patient.migration) as string };
      await expect(patient.next('green', patient.migration, third)).rejects.toMatchObject(taken);
      expect(await patient.on('green', (s) => readRoute(s, patient.migration))).toMatchObject({ writesOn: 'green' });
      expect(await patient.next('green', 'another', third)).toBeGreaterThan(0);
    } finally {
      await third.drop();
    }
  });

  it.each(['rolled back', 'cleaned'])('leaves, when it is %s, the route of the migration before it', async (how) => {
    const patient = await (await Patient.create()).promoted();
    const { migration } = patient;
    const third = await testDatabase('pg18', 'doctor third');
    const second = { runId: 'run-2', migration: 'second' };
    try {
      await patient.ended('completed');
      const route = await patient.on('green', (s) => readRoute(s, migration));
      await patient.next('green', 'second', third);
      await patient.on('green', async (s) => armFence(s, await patient.tables(s)));
      if (how === 'cleaned') {
        process.env['VERDIGRIS_CONNECTION_DOCTOR_BLUE'] = patient.green.uri;
        process.env['VERDIGRIS_CONNECTION_DOCTOR_GREEN'] = third.uri;
        expect(await doctor('--clean', '--yes', '--run-is-over', 'second')).toMatchObject({
          code: 0,
          text: expect.stringContaining(`routers of migration ${migration} read from it`) as string,
        });
      } else {
        await patient.on('green', async (s) => {
          await releaseDatabase(s, second, 'rolledBack');
          await dropState(s, second);
          await dropState(s, second);
        });
      }
      await patient.on('green', async (s) => {
        expect(await readRoute(s, migration)).toEqual(route);
        expect(await readRoute(s, 'second')).toBeUndefined();
        expect((await readFenceTriggers(s, PATTERNS)).map(({ state }) => state)).toEqual(['absent', 'absent']);
      });
      expect(await patient.writable()).toEqual(['green']);
      if (how === 'cleaned') {
        expect(await doctor('--clean', '--yes')).toMatchObject({
          code: 0,
          text: expect.stringContaining('nothing is left that has to go') as string,
        });
      }
      expect(await patient.next('green', 'third', third)).toBeGreaterThan(0);
    } finally {
      await third.drop();
    }
  });

  it('takes a blue that was released by name, though routers of a migration before it read there', async () => {
    const patient = await (await Patient.create()).fenced();
    const { migration } = patient;
    const third = await testDatabase('pg18', 'doctor third');
    try {
      const earlier = `INSERT INTO verdigris.route (migration, writes_on) VALUES ('earlier', 'green')`;
      await patient.on('blue', (s) => s.query(earlier));
      await patient.moved('blue');
      await patient.ended('completed');
      await expect(patient.next('blue', 'another', third)).rejects.toMatchObject({ type: 'BlueGivenAway' });
      expect(await doctor('--clean', '--yes', '--release-blue', migration)).toMatchObject({
        code: 0,
        text: expect.stringContaining('routers of migration earlier read from it') as string,
      });
      expect(await patient.on('blue', (s) => readRoute(s, 'earlier'))).toMatchObject({ writesOn: 'green' });
      expect(await patient.next('blue', 'another', third)).toBeGreaterThan(0);
      expect(await patient.writable()).toContain('blue');
    } finally {
      await third.drop();
    }
  });

  it.each([true, false])(
    'after a rollback whose green is dropped, promoted before: %s, routers hear where writes are',
    async (wasPromoted) => {
      const patient = await (await Patient.create()).fenced();
      const { migration, green } = patient;
      if (wasPromoted) {
        await patient.moved('blue');
        await patient.promoted('green');
      }
      const epoch = await patient.epoch('blue');
      const plan = planSchema.parse({
        ...{ version: 1, name: migration, tables: PATTERNS },
        ...{ blue: { connection: 'doctor_blue' }, green: { connection: 'doctor_green', afterRollback: 'drop' } },
      });
      const { undoReplication, releaseDatabases } = rollbackActivities({ environment: process.env, redact: String });
      const ref = { plan, runId: patient.runId };
      for (const undo of [undoReplication, releaseDatabases]) {
        await new MockActivityEnvironment().run(() => undo(ref, { keepGreen: false }));
      }
      expect(
        await withClient(green.config, (client) => client.query(`SELECT to_regnamespace('verdigris') AS there`)),
      ).toMatchObject({ rows: [{ there: null }] });
      const route = await patient.on('blue', async (s) => ((await hasState(s)) ? readRoute(s, migration) : undefined));
      if (wasPromoted) expect(route).toMatchObject({ epoch, writesOn: 'blue' });
      else expect(route).toBeUndefined();
      if (wasPromoted) expect(await doctor('--clean', '--yes')).toMatchObject({ code: 0 });
      expect(await patient.left('blue')).toEqual([]);
    },
  );

  it('takes a blue that has its writes back, and not the green that gave them', async () => {
    const patient = await (await Patient.create()).promoted();
    await patient.promoted('green');
    const third = await testDatabase('pg18', 'doctor third');
    try {
      await patient.ended('rolledBack');
      await expect(patient.next('green', 'another', third)).rejects.toMatchObject({ type: 'BlueGivenAway' });
      expect(await patient.next('blue', 'another', third)).toBeGreaterThan(0);
      expect(await patient.writable()).toEqual(['blue']);
    } finally {
      await third.drop();
    }
  });
});

describe('when green is lost for good after the promotion', () => {
  let server: EmbeddedPostgres | undefined;
  afterAll(async () => server?.stop());

  it('a person opens blue, who is told what is lost; a green that comes back is overtaken, and is closed', async () => {
    server = await startPostgres({ version: 18, name: 'doctor-lost', settings: { fsync: 'off' } });
    const patient = await (await Patient.create(server)).promoted();
    const { migration } = patient;
    const entry = `INSERT INTO public.entries (account) SELECT 1 FROM generate_series(1, 50) RETURNING id::int`;
    await patient.on('green', async (s) => {
      await s.query(entry);
      const token = await writeMarker(s, 'to_blue');
      await patient.on('blue', async (b) => {
        expect(await waitForMarker(b, 'to_blue', token, 20_000)).toBe(true);
        // Of a green whose clock is an hour behind blue's.
        await b.query(`UPDATE verdigris.marker_to_blue SET at = at - interval '1 h'`);
      });
    });
    const decided = await patient.epoch('blue');
    const openBlue = (...more: string[]): Promise<Said> => doctor('--open', '--green-is-gone', migration, ...more);

    expect(await openBlue('--yes')).toMatchObject({
      code: 1,
      text: expect.stringContaining('refused: green answers') as string,
    });
    patient.away('green');
    expect(await openBlue('--yes')).toMatchObject({
      code: 1,
      text: expect.stringContaining('refused: blue still hears from green') as string,
    });
    process.env['VERDIGRIS_CONNECTION_DOCTOR_GREEN'] = patient.green.uri;
    server.kill('SIGKILL', 'all');
    await expect.poll(() => openBlue(), { timeout: 20_000, interval: 200 }).toMatchObject({ code: 0 });
    expect((await openBlue()).text).toMatch(
      /lose everything that was written on green after \d{4}-.* UTC by green's clock, .* up to [0-9A-F]+\/[0-9A-F]+ of its WAL/,
    );
    expect((await doctor('--open', '--yes')).text).toMatch(
      new RegExp(`doctor --blue .* --open --green-is-gone ${migration}`),
    );
    expect(await doctor('--open', '--yes', '--green-is-gone', 'another')).toMatchObject({ code: 1 });
    const client = await temporalClient();
    try {
      const run = { workflowId: `verdigris/${migration}`, taskQueue: 'nobody-serves-this', args: [{}] };
      const handle = await client.workflow.start('blueGreenMigration', run);
      expect(await openBlue('--yes')).toMatchObject({
        code: 1,
        text: expect.stringContaining('refused: the run lives') as string,
      });
      await handle.terminate('the test says so');
    } finally {
      await client.connection.close();
    }
    expect(await patient.epoch('blue')).toBe(decided);

    expect(await openBlue('--yes')).toMatchObject({
      code: 0,
      text: expect.stringContaining('done    blue: opened at epoch') as string,
    });
    const epoch = await patient.epoch('blue');
    expect(epoch).toBeGreaterThanOrEqual(decided + 2);
    // Rows had come from green, their sequence's values had not.
    const ids = await withClient(patient.blue.config, async (application) => {
      const { rows } = await application.query<{ id: number; old: number }>(
        `WITH old AS (SELECT max(id)::int AS old FROM public.entries), new AS (${entry}) SELECT id, old FROM new, old`,
      );
      return rows;
    });
    expect(ids.every(({ id, old }) => old > 0 && id > old)).toBe(true);
    expect(await openBlue('--yes')).toMatchObject({ code: 1, text: expect.stringContaining('no opening') as string });
    expect(await doctor('--who-is-primary')).toMatchObject({
      code: 0,
      text: expect.stringContaining(`primary  blue, epoch ${epoch}`) as string,
    });
    // What blue knows is all that tells a green that comes back that it was overtaken.
    expect((await doctor('--clean', '--yes')).text).not.toContain('FAILED');
    expect(await patient.left('blue')).toEqual(['schema verdigris']);

    await server.restart();
    expect(await patient.writable()).toEqual(['blue', 'green']);
    const returned = await doctor('--who-is-primary');
    expect(returned.code).toBe(1);
    expect(returned.text).toMatch(/primary {2}blue, but both sides take writes: .*green: its flag is open/);
    expect(returned.text).toMatch(
      /close green at once \(stop what writes there; verdigris doctor --blue .* --close --yes\)/,
    );
    const routers = new NewestRoute(patient.databases, migration);
    expect(await routers.read()).toEqual({ side: 'blue', epoch });
    await routers.close();
    expect(await doctor('--close')).toMatchObject({
      code: 0,
      text: expect.stringContaining('would close green') as string,
    });
    expect(await doctor('--close', '--yes')).toMatchObject({
      code: 0,
      text: expect.stringContaining(`primary  blue, epoch ${epoch}: green is closed`) as string,
    });
    expect(await patient.writable()).toEqual(['blue']);
    expect(await doctor('--clean', '--yes')).toMatchObject({ code: 0 });
    expect(await doctor('--who-is-primary')).toMatchObject({
      code: 0,
      text: expect.stringMatching(/^primary {2}blue/) as string,
    });
    expect(await patient.writable()).toEqual(['blue']);
  });
});
