import { afterEach, describe, expect, it } from 'vitest';
import { readRunTraces, type RunTraces } from '../../src/postgres/run-traces.js';
import { closePatients, Patient } from '../support/doctor-patient.js';

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
});
