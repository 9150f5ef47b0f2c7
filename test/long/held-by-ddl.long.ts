import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides } from '../support/scripted-run.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { resumeUpdate, retireUpdate, rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
const WHAT = "blue's schema has changed: table public.coupons is new";

/** Somebody changes blue's schema when the test says so. */
class Ddl {
  #done: (() => void) | undefined;
  readonly #happens = new Promise<void>((resolve) => (this.#done = resolve));
  #isNoticed = false;
  refusals: string[] = [];

  happens(): void {
    this.#done?.();
  }

  get activities(): Overrides {
    return {
      watchSchema: async (_run, _ref, side) => {
        if (side === 'green' || this.#isNoticed) return untilCancelled();
        await Promise.race([this.#happens, untilCancelled()]);
        this.#isNoticed = true;
        return { what: WHAT };
      },
      acceptSchema: () => {
        const refused = this.refusals.shift() ?? null;
        return { refused, accepted: refused === null ? WHAT : null };
      },
    };
  }
}

describe.concurrent('DDL on blue', () => {
  it('holds the run with what has changed; a resume is refused until it can go on, and then it goes on', async () => {
    const ddl = new Ddl();
    ddl.refusals = ['the run can not go on: table public.coupons is new'];
    let calls = 0;
    const run = await runs.begin({ ...ddl.activities, verify: () => (calls++ === 0 ? untilCancelled() : VERIFIED) });
    await run.saw('+verify');
    ddl.happens();
    const held = await until(run.handle, 'held', (s) => (s.held ?? null) !== null && s.waiting?.for === 'resume');
    expect(held.held?.why).toBe(WHAT);
    expect(held.held?.answer).toMatch(/--name resume/);
    expect(held.warnings).toContain(WHAT);
    // The work has stopped, and goes on where it was.
    run.at('-verify');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await until(run.handle, 'refused', (s) => /can not go on/.test(s.held?.why ?? ''));
    expect(run.log).not.toContain('+forecastGates');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await run.saw('+watchStandby');
    const status = await statusOf(run.handle);
    expect(status.held).toBeNull();
    expect(status.warnings).toContain(`accepted: ${WHAT}`);
    expect(run.log.filter((entry) => entry === '+verify')).toHaveLength(3);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
  });

  it('does not break a copy off; the next step waits', async () => {
    const ddl = new Ddl();
    let copied = (): void => undefined;
    const copying = new Promise<void>((resolve) => (copied = resolve));
    const run = await runs.begin({ ...ddl.activities, copyRows: () => copying });
    await run.saw('+copyRows');
    ddl.happens();
    await until(run.handle, 'held', (s) => (s.held ?? null) !== null);
    copied();
    await run.saw('-copyRows');
    await until(run.handle, 'waiting', (s) => s.waiting?.for === 'resume');
    expect(run.log).not.toContain('+completeSchema');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.held).toBeNull();
  });

  it('keeps the promotion from beginning, also when only the last look finds it', async () => {
    const ddl = new Ddl();
    let looks = 0;
    const run = await runs.begin({
      ...ddl.activities,
      lookAtSchema: () => {
        if (looks++ > 0) return { what: null };
        setTimeout(() => ddl.happens(), 200);
        return { what: WHAT };
      },
    });
    await until(run.handle, 'held', (s) => s.phase === 'promote' && s.waiting?.for === 'resume');
    await sleep(100);
    expect(run.log).not.toContain('+promote');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await run.saw('-promote');
    expect(run.writesOn).toBe('green');
    await run.handle.cancel();
    await run.handle.result().catch(() => undefined);
  });

  it('that makes the work fail holds the run, instead of rolling it back', async () => {
    const ddl = new Ddl();
    let calls = 0;
    const run = await runs.begin({
      ...ddl.activities,
      verify: async () => {
        if (calls++ > 0) return VERIFIED;
        // Noticed while the comparison is about to fail because of it.
        ddl.happens();
        await untilCancelled().catch(() => undefined);
        throw ApplicationFailure.nonRetryable('column extra is missing', 'SqlError');
      },
    });
    await until(run.handle, 'held', (s) => s.waiting?.for === 'resume' && /extra/.test(s.waiting.why));
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await run.saw('+watchStandby');
    await run.handle.cancel();
    await run.handle.result().catch(() => undefined);
  });

  it('where the plan moves nothing is told, and holds nothing; it is not told again', async () => {
    const what = 'DDL on blue where the plan moves nothing: CREATE VIEW (view etl.v)';
    const known: unknown[] = [];
    const run = await runs.begin({
      watchSchema: (_run, _ref, side, _told, toldAside) => {
        if (side === 'green') return untilCancelled();
        known.push(toldAside);
        return toldAside === undefined ? { what, aside: 'a' } : untilCancelled();
      },
    });
    await run.saw('+watchStandby');
    const status = await statusOf(run.handle);
    expect(status.held ?? null).toBeNull();
    expect(status.warnings.filter((warning) => warning.startsWith(what))).toHaveLength(1);
    expect(run.log).not.toContain('+acceptSchema');
    expect(known.slice(0, 2)).toEqual([undefined, 'a']);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    await replayed(run);
  });

  it('on green, in the standby window, is told and holds nothing', async () => {
    let told = 0;
    const run = await runs.begin({
      watchSchema: (_run, _ref, side) => {
        if (side === 'blue' || told++ > 0) return untilCancelled();
        return { what: "green's schema has changed: public.orders: column x is new (text)" };
      },
    });
    const status = await until(run.handle, 'told', (s) => s.warnings.some((w) => w.startsWith("green's schema")));
    expect(status.held ?? null).toBeNull();
    expect(status.warnings.at(-1)).toMatch(/column x is new \(text\)\. It is not replicated/);
    await run.saw('+takeSchemaOver');
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
  });

  it('on blue, in the standby window, is told; what was dropped there is lost for a rollback, which says so', async () => {
    let told = 0;
    const run = await runs.begin({
      watchSchema: (own, _ref, side) => {
        if (side === 'green' || own.writesOn === 'blue' || told++ > 0) return untilCancelled();
        return { what: "blue's schema has changed: table public.archive is gone" };
      },
      takeSchemaOver: (_run, _ref, side) => ({
        ...{ onlyOnGreen: [], droppedOnBlue: side === 'blue' ? ['table public.archive'] : [] },
      }),
    });
    const status = await until(run.handle, 'told', (s) => s.rollback.loses !== undefined);
    expect(status.rollback.loses).toBe('what was in table public.archive, dropped on blue since the promotion');
    expect(status.alarms).toMatchObject([
      { about: 'blueSchema', why: expect.stringMatching(/archive is gone/) as string },
    ]);
    await expect(run.handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/would lose what was in table public\.archive/) as string },
    });
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
  });

  it('on green that can be told and not be noted is told all the same: nothing is rolled back, since green serves', async () => {
    const run = await runs.begin({
      watchSchema: (_run, _ref, side) => (side === 'blue' ? untilCancelled() : { what: "green's schema has changed" }),
      takeSchemaOver: () => {
        throw ApplicationFailure.nonRetryable('PostgreSQL refused: permission denied (42501)', 'SqlError');
      },
    });
    await until(run.handle, 'told', (s) => /can't be noted as told: .*permission denied/.test(s.warnings.join()));
    await sleep(300);
    const status = await statusOf(run.handle);
    expect(status).toMatchObject({ outcome: 'running', phase: 'standby', writesOn: 'green', rollingBack: null });
    // Nor is it told again and again.
    expect(run.log.filter((entry) => entry === '+takeSchemaOver')).toHaveLength(1);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
  });
});

const VERIFIED = {
  ...{ scope: 'all', tables: 1, rowsVerified: 1, differingRows: 0, examples: [] },
  at: '2026-11-22T00:00:00Z',
};
