import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { statusOf, until } from '../support/migration.js';
import { failureOf } from '../support/run-end.js';
import { replayed, ScriptedRuns, slowly, untilCancelled, type Overrides } from '../support/scripted-run.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { retireUpdate, rollbackSignal, rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
const LOSS = 'about 12 writes';
const MUCH = 'about 40000 writes';

/** A feed to blue that is dead until `mended`: what the activities answer then. */
class Feed {
  mended = false;
  readonly keptGreen: boolean[] = [];
  /** Set when the watch has noticed it. */
  constructor(private readonly noticed: boolean) {}

  get activities(): Overrides {
    return {
      watchStandby: (_run, _ref, known) =>
        !this.noticed || known === 'broken'
          ? untilCancelled()
          : { health: 'broken', rollbackSafe: false, why: 'its slot is gone', lagSeconds: null, loses: LOSS },
      promote: (run, _ref, from, _epoch, acceptLoss) => {
        if (from === 'blue' || acceptLoss === true || this.mended) {
          return { ...run.move(from), lost: acceptLoss === true ? LOSS : null };
        }
        throw ApplicationFailure.nonRetryable(`its slot is gone; a rollback would lose ${LOSS}`, 'RollbackUnsafe');
      },
      undoReplication: (_run, _ref, keep) => this.keptGreen.push(keep.keepGreen),
    };
  }
}

describe.concurrent('a rollback that would lose writes', () => {
  it('is refused with what it would lose; once that is accepted it goes through, and green is kept whatever the plan says', async () => {
    const feed = new Feed(true);
    const run = await runs.begin(feed.activities, { green: { connection: 'g', afterRollback: 'drop' } });
    const status = await until(run.handle, 'told', (s) => s.rollback.loses !== undefined);
    expect(status.rollback).toEqual({ safe: false, why: 'its slot is gone', loses: LOSS });
    expect(status.warnings).toContain('its slot is gone');

    await expect(run.handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/would lose about 12 writes\. Send .*"acceptLoss": true/) as string },
    });
    await run.handle.signal(rollbackSignal, WHO);
    const kept = await until(run.handle, 'told', (s) => s.decisions.length === 1);
    expect(kept.decisions[0]?.ignored).toMatch(/would lose about 12 writes/);
    await expect(
      run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: 'no' as unknown as boolean }] }),
    ).rejects.toThrow();
    expect((await statusOf(run.handle)).writesOn).toBe('green');

    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.rollingBack?.lost).toBe(LOSS);
    expect(report.now).toMatch(/blue serves everything but about 12 writes, which green keeps/);
    expect(report.decisions.at(-1)).toMatchObject({ message: 'rollback', acceptLoss: true });
    expect(run.writesOn).toBe('blue');
    expect(feed.keptGreen).toEqual([true]);
  });

  it('waits for the confirmation when it was asked for before anybody knew, or by a cancel; green serves meanwhile', async () => {
    const run = await runs.begin(new Feed(false).activities);
    await run.saw('+watchStandby');
    await run.handle.cancel();
    const status = await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    expect(status.waiting?.why).toMatch(/a rollback would lose about 12 writes/);
    expect(status.waiting?.answer).toMatch(/--name rollback --input '{"acceptLoss":true/);
    expect(status.writesOn).toBe('green');
    expect(run.writesOn).toBe('green');
    expect(run.log).not.toContain('+removeFence');
    await expect(run.handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/"acceptLoss": true/) as string },
    });

    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    expect((await failureOf(run)).cause).toBeInstanceOf(CancelledFailure);
    expect(run.writesOn).toBe('blue');
    expect((await statusOf(run.handle)).rollingBack?.lost).toBe(LOSS);
  });

  it('since tables were made on green: it is refused, or waits for the confirmation; the feed is used, and green is kept', async () => {
    const feed = new Feed(false);
    feed.mended = true;
    let told = 0;
    const run = await runs.begin({
      ...feed.activities,
      watchSchema: (_run, _ref, side) =>
        side === 'blue' || told++ > 0 ? untilCancelled() : { what: "green's schema has changed" },
      takeSchemaOver: () => ({ onlyOnGreen: ['table public.coupons', 'column public.orders.note'] }),
    });
    const status = await until(run.handle, 'told', (s) => s.rollback.loses !== undefined);
    expect(status.rollback).toMatchObject({ safe: false });
    expect(status.rollback.loses).toMatch(/table public\.coupons, column public\.orders\.note/);
    await expect(run.handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toThrow();
    await run.handle.cancel();
    await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    expect(run.writesOn).toBe('green');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    await failureOf(run);
    expect(run.writesOn).toBe('blue');
    expect(feed.keptGreen).toEqual([true]);
    expect((await statusOf(run.handle)).rollingBack?.lost).toMatch(/^what is in table public\.coupons/);
  });

  it('since green holds what is not replicated: it is refused until that is accepted; the feed is used, and green is kept', async () => {
    const feed = new Feed(false);
    feed.mended = true;
    const objects = ['the large objects of green'];
    const known: unknown[] = [];
    const run = await runs.begin({
      ...feed.activities,
      watchSchema: (_run, _ref, side, _told, _toldAside, unmoved) => {
        if (side === 'blue' || known.push(unmoved) > 1) return untilCancelled();
        return { what: 'green holds what is not replicated to blue: the large objects of green', unmoved: objects };
      },
      unmovedOnGreen: () => objects,
    });
    const status = await until(run.handle, 'told', (s) => s.rollback.loses !== undefined);
    expect(status.rollback).toEqual({
      ...{ safe: false, why: 'there is no way back for the large objects of green' },
      loses: 'the large objects of green',
    });
    expect(status.alarms).toMatchObject([{ about: 'contents' }]);
    await vi.waitFor(() => expect(known.at(-1)).toEqual(objects), { timeout: 10_000 });
    await expect(run.handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toThrow();
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.rollingBack?.lost).toBe('the large objects of green');
    expect(feed.keptGreen).toEqual([true]);
    await replayed(run);
  });

  it('since green holds what is not replicated, as the way back finds: it waits, and goes on once that has gone', async () => {
    const feed = new Feed(false);
    feed.mended = true;
    let subscriptions = ['what comes to green by subscriptions to other databases (orders_in)'];
    const run = await runs.begin({ ...feed.activities, unmovedOnGreen: () => subscriptions });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const { waiting } = await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    expect(waiting?.why).toMatch(/a rollback would lose what comes to green by .*\(orders_in\)/);
    expect(run.writesOn).toBe('green');
    subscriptions = [];
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.rollingBack?.lost).toBeUndefined();
  });

  it('since rows were written where blue has no table, in the moment of the move: green is kept, and the report says so', async () => {
    const feed = new Feed(false);
    feed.mended = true;
    const rows = ['the rows of public.coupons, which blue does not have'];
    const run = await runs.begin(
      {
        ...feed.activities,
        promote: (own, _ref, from) => ({ ...own.move(from), ...(from === 'green' ? { unmoved: rows } : {}) }),
      },
      { green: { connection: 'g', afterRollback: 'drop' } },
    );
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.rollingBack?.lost).toBe(rows[0]);
    expect(feed.keptGreen).toEqual([true]);
    await replayed(run);
  });

  it('since rows differ: it waits for the confirmation also where the feed lives, and green is kept', async () => {
    const feed = new Feed(false);
    feed.mended = true;
    const run = await runs.begin(
      {
        ...feed.activities,
        verify: (_run, _ref, source, scope) => ({
          ...{ scope, tables: 1, rowsVerified: 9, differingRows: source === 'green' ? 1 : 0 },
          ...{ examples: source === 'green' ? ['accounts (id=7): balance'] : [], at: new Date().toISOString() },
        }),
      },
      { standby: { for: '1h', verifyEvery: '1s' }, green: { connection: 'green', afterRollback: 'drop' } },
    );
    await until(run.handle, 'compared', (s) => s.rollback.loses !== undefined);
    await run.handle.cancel();
    const { waiting } = await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    expect(waiting?.why).toMatch(/would lose 1 row differs.*accounts \(id=7\)/);
    expect(run.writesOn).toBe('green');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    await failureOf(run);
    expect(run.writesOn).toBe('blue');
    expect(feed.keptGreen).toEqual([true]);
    expect((await statusOf(run.handle)).rollingBack?.lost).toMatch(/accounts \(id=7\)/);
  });

  it('since rows differ: it notices that these were mended, also what only green had, and loses nothing then', async () => {
    const feed = new Feed(false);
    feed.mended = true;
    let differing = 1;
    let made = ['table public.coupons'];
    let told = 0;
    const run = await runs.begin(
      {
        ...feed.activities,
        verify: (_run, _ref, source, scope) => ({
          ...{ scope, tables: 1, rowsVerified: 9, differingRows: source === 'green' ? differing : 0 },
          ...{ examples: source === 'green' ? ['accounts (id=7): balance'] : [], at: new Date().toISOString() },
        }),
        watchSchema: (_run, _ref, side) =>
          side === 'blue' || told++ > 0 ? untilCancelled() : { what: "green's schema has changed" },
        takeSchemaOver: () => ({ onlyOnGreen: made }),
      },
      { standby: { for: '1h', verifyEvery: '1s' } },
    );
    await until(run.handle, 'compared', (s) => /1 row differs.*coupons/.test(s.rollback.loses ?? ''));
    await run.handle.cancel();
    await until(run.handle, 'waiting', (s) => /would lose 1 row differs/.test(s.waiting?.why ?? ''));
    made = [];
    const { waiting } = await until(run.handle, 'waiting', (s) => s.waiting?.why.includes('coupons') === false);
    expect(waiting?.why).toMatch(/would lose 1 row differs.*accounts \(id=7\)/);
    differing = 0;
    expect((await failureOf(run)).cause).toBeInstanceOf(CancelledFailure);
    expect(run.writesOn).toBe('blue');
    const status = await statusOf(run.handle);
    expect(status.rollingBack?.lost).toBeUndefined();
    expect(status.verification?.differingRows).toBe(0);
    await replayed(run);
  });

  it.each([true, false])(
    'since blue has failed over: rows are compared, and where they are the same nothing is lost (noticed before: %s)',
    async (isNoticed) => {
      let refused = false;
      const differing = [1, 0];
      const run = await runs.begin({
        watchStandby: (_run, _ref, known) =>
          !isNoticed || known === 'broken'
            ? untilCancelled()
            : {
                ...{ health: 'broken', rollbackSafe: false, why: 'blue was failed over', lagSeconds: null },
                ...{ loses: LOSS, comparisonEndsIt: '1 00000002' },
              },
        promote: (own, _ref, from) => {
          if (from === 'blue' || differing.length === 0) return own.move(from);
          refused = true;
          throw ApplicationFailure.create({
            ...{ type: 'RollbackUnsafe', nonRetryable: true, details: [{ comparisonEndsIt: true }] },
            message: `blue was failed over; a rollback would lose ${LOSS}`,
          });
        },
        verify: (_run, _ref, source, scope) => {
          const rows = source === 'green' && refused ? (differing.shift() ?? 0) : 0;
          return {
            ...{ scope, tables: 1, rowsVerified: 9, differingRows: rows, at: new Date().toISOString() },
            examples: rows === 0 ? [] : ['accounts (id=7): missing'],
          };
        },
      });
      await run.saw('+watchStandby');
      if (isNoticed) await until(run.handle, 'told', (s) => s.rollback.loses !== undefined);
      await run.handle.cancel();
      await until(run.handle, 'waiting', (s) => s.waiting?.why.includes(LOSS) === true);
      await until(run.handle, 'compared', (s) => /1 row differs.*accounts \(id=7\)/.test(s.waiting?.why ?? ''));
      expect((await failureOf(run)).cause).toBeInstanceOf(CancelledFailure);
      expect(run.writesOn).toBe('blue');
      expect((await statusOf(run.handle)).rollingBack?.lost).toBeUndefined();
      await replayed(run);
    },
  );
  it('since rows differ: a comparison that takes long goes on beside the wait, and ends it', async () => {
    const feed = new Feed(false);
    feed.mended = true;
    const begun: number[] = [];
    let brokenOff = 0;
    const run = await runs.begin(
      {
        ...feed.activities,
        verify: async (_run, _ref, source, scope, pass) => {
          const anew = pass.startsWith('way back');
          if (anew && begun.push(Date.now()) === 1) {
            await untilCancelled().catch(() => undefined);
            brokenOff = Date.now();
            throw new CancelledFailure('cancelled');
          }
          if (anew) await slowly(1_500);
          const differing = source === 'green' && !anew ? 1 : 0;
          return {
            ...{ scope, tables: 1, rowsVerified: 9, differingRows: differing, at: new Date().toISOString() },
            examples: differing === 0 ? [] : ['accounts (id=7): balance'],
          };
        },
      },
      { standby: { for: '1h', verifyEvery: '1s' } },
    );
    await until(run.handle, 'compared', (s) => s.rollback.loses !== undefined);
    await run.handle.cancel();
    await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    await vi.waitFor(() => expect(brokenOff).toBeGreaterThan(0), { timeout: 90_000 });
    await until(run.handle, 'told', (s) => s.waiting?.why.includes('; rows are compared again meanwhile') === true);
    expect((await failureOf(run)).cause).toBeInstanceOf(CancelledFailure);
    // The wait after that try is ten seconds.
    expect(begun).toHaveLength(2);
    expect((begun[1] ?? 0) - brokenOff).toBeLessThan(5_000);
    const { rollingBack, decisions } = await statusOf(run.handle);
    expect(rollingBack?.lost).toBeUndefined();
    expect(decisions.filter(({ acceptLoss }) => acceptLoss === true)).toEqual([]);
    await replayed(run);
  });

  it('can be given up: writes stay on green, and nothing that they need is taken down', async () => {
    const run = await runs.begin(new Feed(false).activities);
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    await run.handle.executeUpdate(retireUpdate, { args: [{ by: 'ada', reason: 'we stay' }] });
    const error = await failureOf(run);
    expect(error.cause?.message).toMatch(/writes stay on green, as ada has said: we stay/);
    expect(run.writesOn).toBe('green');
    expect(run.log.filter((entry) => /undoReplication|releaseDatabases|removeFence/.test(entry))).toEqual([]);
  });

  it('loses nothing when the feed was mended meanwhile', async () => {
    const feed = new Feed(false);
    const run = await runs.begin(feed.activities);
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    feed.mended = true;
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.rollingBack?.lost).toBeUndefined();
  });

  it('is not covered by what was accepted of another loss: the feed dies in that moment, and that is asked about', async () => {
    let told = 0;
    const run = await runs.begin({
      promote: (own, _ref, from, _epoch, acceptLoss) => {
        if (from === 'blue' || acceptLoss === true) return { ...own.move(from), lost: acceptLoss ? MUCH : null };
        throw ApplicationFailure.nonRetryable(`its slot is gone; a rollback would lose ${MUCH}`, 'RollbackUnsafe');
      },
      watchSchema: (_run, _ref, side) =>
        side === 'blue' || told++ > 0 ? untilCancelled() : { what: "green's schema has changed" },
      takeSchemaOver: () => ({ onlyOnGreen: ['column public.orders.note'] }),
    });
    await until(run.handle, 'told', (s) => s.rollback.loses !== undefined);
    const answer = await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    expect(answer).toMatch(/with the loss of .*column public\.orders\.note/);
    const { waiting, decisions } = await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    expect(waiting?.why).toMatch(/about 40000 writes/);
    expect(decisions.at(-1)?.accepted).toMatch(/column public\.orders\.note/);
    expect(run.writesOn).toBe('green');
    expect(await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] })).toMatch(
      /with the loss of .*about 40000 writes/,
    );
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.rollingBack?.lost).toMatch(/^about 40000 writes; what is in column public\.orders\.note/);
    await replayed(run);
  });

  it('is not covered by what was accepted of a much smaller one', async () => {
    const feed = new Feed(true);
    const run = await runs.begin({
      ...feed.activities,
      promote: (own, _ref, from, _epoch, acceptLoss) => {
        if (from === 'blue' || acceptLoss === true) return { ...own.move(from), lost: acceptLoss ? MUCH : null };
        throw ApplicationFailure.nonRetryable(`its slot is gone; a rollback would lose ${MUCH}`, 'RollbackUnsafe');
      },
    });
    await until(run.handle, 'told', (s) => s.rollback.loses !== undefined);
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    await until(run.handle, 'waiting', (s) => /about 40000 writes/.test(s.waiting?.why ?? ''));
    expect(run.writesOn).toBe('green');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('rolledBack');
  });

  it('is not covered by an "acceptLoss" that came while nothing was to be lost', async () => {
    const run = await runs.begin(new Feed(false).activities);
    await run.saw('+watchStandby');
    expect(await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] })).toMatch(
      /no loss is accepted/,
    );
    const { decisions } = await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    expect(decisions.at(-1)).not.toHaveProperty('acceptLoss');
    expect(run.writesOn).toBe('green');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('rolledBack');
  });

  it('is not covered by an answer that came in the middle of the try that names it', async () => {
    let tries = 0;
    let name = (): void => undefined;
    const named = new Promise<void>((resolve) => (name = resolve));
    const run = await runs.begin({
      promote: async (own, _ref, from, _epoch, acceptLoss) => {
        if (from === 'blue' || acceptLoss === true) return { ...own.move(from), lost: acceptLoss ? MUCH : null };
        if (tries++ === 0) throw ApplicationFailure.nonRetryable('blue is too far behind', 'PromotionBlocked');
        await named;
        throw ApplicationFailure.nonRetryable(`its slot is gone; a rollback would lose ${MUCH}`, 'RollbackUnsafe');
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'blocked', (s) => /too far behind/.test(s.waiting?.why ?? ''));
    await run.saw('+promote', 4);
    expect(await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] })).toMatch(
      /with the loss of what blue does not have by then/,
    );
    name();
    await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    expect(run.writesOn).toBe('green');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('rolledBack');
  });

  it('may be accepted while blue never catches up: the tries to lose nothing end', async () => {
    const run = await runs.begin({
      promote: (own, _ref, from, _epoch, acceptLoss) => {
        if (from === 'blue' || acceptLoss === true) return { ...own.move(from), lost: acceptLoss ? LOSS : null };
        throw ApplicationFailure.nonRetryable('blue is too far behind', 'PromotionBlocked');
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'blocked', (s) => /too far behind/.test(s.waiting?.why ?? ''));
    await run.handle.signal(rollbackSignal, { ...WHO, acceptLoss: true });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.rollingBack?.lost).toBe(LOSS);
    expect(run.writesOn).toBe('blue');
  });

  it('is not asked for where a forced try would be blocked as well: what is in the way passes, and nothing is lost', async () => {
    let isBlocked = true;
    const withLoss: boolean[] = [];
    const run = await runs.begin({
      promote: (own, _ref, from, _epoch, acceptLoss) => {
        if (from === 'blue') return own.move(from);
        withLoss.push(acceptLoss === true);
        if (isBlocked) throw ApplicationFailure.nonRetryable('writers did not end within 80 ms', 'PromotionBlocked');
        return { ...own.move(from), lost: acceptLoss === true ? LOSS : null };
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const { waiting } = await until(run.handle, 'blocked', (s) => /writers did not end/.test(s.waiting?.why ?? ''));
    expect(waiting?.answer).toMatch(/--name retire /);
    expect(await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] })).toMatch(
      /no loss is accepted/,
    );
    await run.saw('-promote', 3);
    isBlocked = false;
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.rollingBack?.lost).toBeUndefined();
    expect(withLoss).not.toContain(true);
    await replayed(run);
  });

  it('once accepted, is taken although a try with it was blocked: each one says anew what it would lose', async () => {
    let forced = 0;
    const run = await runs.begin({
      promote: (own, _ref, from, _epoch, acceptLoss) => {
        if (from === 'blue') return own.move(from);
        if (acceptLoss !== true) throw ApplicationFailure.nonRetryable('blue is too far behind', 'PromotionBlocked');
        if (forced++ === 0) throw ApplicationFailure.nonRetryable('writers did not end', 'PromotionBlocked');
        return { ...own.move(from), lost: LOSS };
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'blocked', (s) => /too far behind/.test(s.waiting?.why ?? ''));
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.rollingBack?.lost).toBe(LOSS);
    expect(forced).toBe(2);
    await replayed(run);
  });
});
