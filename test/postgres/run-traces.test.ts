import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterEach, describe, expect, it } from 'vitest';
import { rollbackActivities } from '../../activities/rollback.js';
import { readRunTraces, type RunTraces } from '../../src/postgres/run-traces.js';
import { closePatients, Patient } from '../support/doctor-patient.js';
import { LinkProxy } from '../support/link-proxy.js';
import { testDatabase, withClient } from '../support/postgres.js';
import { planOf } from './replicated-pair.js';

afterEach(closePatients);

const NONE = { isOwner: false, isBack: false };

describe('what databases know of a run', () => {
  it('is whose they are, and whether it has brought the writes back from green', async () => {
    const patient = await Patient.create();
    const traces = async (runId = patient.runId): Promise<readonly RunTraces[]> => {
      const { migration } = patient;
      const on = (side: 'blue' | 'green'): Promise<RunTraces> =>
        patient.on(side, (session) => readRunTraces(session, { runId, migration }));
      return [await on('blue'), await on('green')];
    };
    expect(await traces()).toEqual([NONE, NONE]);
    await patient.fenced();
    expect(await traces()).toEqual([
      { isOwner: true, isBack: false },
      { isOwner: true, isBack: false },
    ]);
    await patient.moved('blue');
    expect((await traces())[1]).toEqual({ isOwner: true, isBack: false });
    await patient.moved('green');
    expect((await traces())[1]).toEqual({ isOwner: true, isBack: true });
    await patient.ended('rolledBack');
    expect((await traces())[1]).toEqual({ isOwner: true, isBack: true });
    expect(await traces('another run')).toEqual([NONE, NONE]);
  });

  it('is asked by sessions of which none stays on one side when the other refuses', async () => {
    const db = await testDatabase('pg18', 'traces');
    const [blue, green] = [await LinkProxy.start(db.port), await LinkProxy.start(db.port)];
    try {
      // Green has refused before blue lets anybody in.
      blue.delay(100);
      green.refuse();
      const through = ({ port }: LinkProxy): string => db.uri.replace(`:${db.port}/`, `:${port}/`);
      const { tracesOfRun } = rollbackActivities({
        environment: { VERDIGRIS_CONNECTION_B: through(blue), VERDIGRIS_CONNECTION_G: through(green) },
        redact: String,
      });
      const asked = new MockActivityEnvironment().run(() => tracesOfRun({ plan: planOf([]), runId: 'run' }));
      await expect(asked).rejects.toMatchObject({ type: 'ConnectionFailed' });
      await sleep(1_500);
      const { rows } = await withClient(db.config, (client) =>
        client.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'verdigris traces of the run'"),
      );
      expect(rows).toEqual([]);
    } finally {
      await Promise.all([blue.close(), green.close()]);
      await db.drop();
    }
  });
});
