import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { until } from '../support/migration.js';
import { failureOf, resultOf } from '../support/run-end.js';
import { rollBackByCancel, rollBackByFailure, rollBackByMessage, RUNNING } from '../support/running-phases.js';
import { replayed, ScriptedRuns, untilCancelled } from '../support/scripted-run.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { retireUpdate, rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

describe.concurrent('compensation begins when the running activities have really stopped', () => {
  it('in every phase, asked for by message', () => rollBackByMessage(runs, RUNNING));

  it('in every phase, by a cancel', () => rollBackByCancel(runs, RUNNING));

  it('in every phase, after a failure beside the running activity', () => rollBackByFailure(runs, RUNNING));
});

describe.concurrent('compensation runs to its end', () => {
  it('also where blue is lost before what was decided is finished: it says so, and hears `retire`', async () => {
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (own.writesOn === 'blue') return own.move(from);
        // As of a server that is away: tried again by Temporal, without end where nobody bounds it.
        throw ApplicationFailure.create({ type: 'ConnectionFailed', message: 'blue is away', nonRetryable: false });
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'told', (s) => /^finishing what was decided.*blue is away/.test(s.waiting?.why ?? ''));
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await failureOf(run)).cause?.message).toMatch(/writes stay on green/);
    expect(run.writesOn).toBe('green');
  });

  it('also where blue is lost in the tries of the promotion: it says what it waits for', async () => {
    let isAway = true;
    const run = await runs.begin({
      promote: async (own, _ref, from) => {
        if (from === 'green') return own.move(from);
        await untilCancelled().catch(() => undefined);
        throw new CancelledFailure('cancelled');
      },
      whereWritesAre: (own) => {
        if (!isAway) return { writesOn: own.writesOn, epoch: own.epoch };
        throw ApplicationFailure.create({ type: 'ConnectionFailed', message: 'blue is away', nonRetryable: false });
      },
    });
    await run.saw('+promote');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const { waiting, rollback } = await until(run.handle, 'told', (s) =>
      /^blue does not say whether the promotion was decided.*blue is away/.test(s.waiting?.why ?? ''),
    );
    expect(waiting).toMatchObject({ for: 'retry', answer: 'verdigris doctor --blue b --green g --who-is-primary' });
    expect(rollback).toMatchObject({ safe: false, why: expect.stringContaining('is not known') as string });
    isAway = false;
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.writesOn).toBe('blue');
    await replayed(run);
  });

  it('however long it is refused: what somebody mends does not end it', async () => {
    let isMended = false;
    const refusing = <T>(work: () => T): T => {
      if (isMended) return work();
      throw ApplicationFailure.nonRetryable('there is no such database', 'ConnectionFailed');
    };
    const run = await runs.begin({
      whereWritesAre: (own) => refusing(() => ({ writesOn: own.writesOn, epoch: own.epoch })),
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const asks = await until(run.handle, 'blocked', (s) =>
      /^asking the databases.*no such database/.test(s.waiting?.why ?? ''),
    );
    expect(asks.rollback.why).toBe('blue follows green: writes can go back without a loss');
    isMended = true;
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.writesOn).toBe('blue');
  });

  it('but takes nothing away that writes on green need, when they are to stay there', async () => {
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (from === 'blue') return own.move(from);
        throw ApplicationFailure.nonRetryable('permission denied', 'SqlError');
      },
    });
    await run.saw('+watchStandby');
    await run.handle.cancel();
    await until(run.handle, 'blocked', (s) => /^permission denied\n/.test(s.waiting?.why ?? ''));
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    const error = await failureOf(run);
    expect(error.cause?.message).toMatch(/writes back to blue: writes stay on green/);
    expect(error.cause?.message).toMatch(/release both databases: left as it is, since writes are not back/);
    expect(run.log.filter((entry) => /undoReplication|releaseDatabases|removeFence/.test(entry))).toEqual([]);
  });

  it('and is not ended by `retire` once green has given the writes away: blue is opened', async () => {
    let isAway = true;
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        // Decided, and the new side can't be opened.
        const moved = own.move(from);
        if (from === 'green' && isAway) throw ApplicationFailure.nonRetryable('blue is away', 'ConnectionFailed');
        return moved;
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const told = await until(run.handle, 'told', (s) => /nobody takes writes.*blue is away/.test(s.waiting?.why ?? ''));
    expect(told).toMatchObject({ writesOn: 'blue', rollback: { safe: false } });
    expect(told.waiting?.answer).toMatch(/^verdigris doctor --blue b --green g --open --yes$/);
    await expect(run.handle.executeUpdate(retireUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/green has given the writes to blue.*doctor/) as string },
    });
    await expect(
      run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] }),
    ).rejects.toMatchObject({ cause: { message: expect.stringMatching(/nobody takes writes/) as string } });
    isAway = false;
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    run.at('-releaseDatabases');
    await replayed(run);
  });

  it('also where `retire` came while nobody knew what has come of the try: green is asked first', async () => {
    let answers = false;
    let isAway = true;
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        const moved = own.move(from);
        if (from === 'green' && isAway) throw ApplicationFailure.nonRetryable('blue is away', 'ConnectionFailed');
        return moved;
      },
      whereWritesAre: (own) => ({ writesOn: own.writesOn, epoch: own.epoch, isOpen: !isAway }),
      writesOfGreen: (own, _ref, epoch) => {
        expect(epoch).toBe(2);
        if (!answers) throw ApplicationFailure.nonRetryable('green is away', 'ConnectionFailed');
        return own.writesOn === 'green' ? 'has them' : 'gave them away';
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'blocked', (s) => /^blue is away\n/.test(s.waiting?.why ?? ''));
    expect(await run.handle.executeUpdate(retireUpdate, { args: [WHO] })).toMatch(/unless green has given them away/);
    const waits = await until(run.handle, 'asks', (s) => /waits until green says/.test(s.waiting?.why ?? ''));
    expect(waits.waiting?.answer).toMatch(/--who-is-primary$/);
    answers = true;
    const told = await until(run.handle, 'refused', (s) => s.warnings.some((one) => /was not followed/.test(one)));
    expect(told.outcome).toBe('running');
    isAway = false;
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run);
  });

  it('nor by one that comes while green, which has been given the writes, is not open', async () => {
    let opened = false;
    let promotions = 0;
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (from === 'blue' && !opened) {
          if (promotions++ === 0) own.move(from);
          throw ApplicationFailure.nonRetryable('green refuses the login', 'ConnectionFailed');
        }
        return own.move(from);
      },
      writesOfGreen: () => (opened ? 'has them' : 'not opened'),
    });
    await until(run.handle, 'blocked', (s) =>
      /^finishing what was decided.*refuses the login/.test(s.waiting?.why ?? ''),
    );
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    const told = await until(run.handle, 'refused', (s) => s.warnings.some((one) => /was not followed/.test(one)));
    expect(told.warnings.at(-1)).toMatch(/green has been given the writes and is not open yet/);
    expect(told.outcome).toBe('running');
    opened = true;
    await failureOf(run);
    expect(run.writesOn).toBe('blue');
  });

  it('and is not misled by a blue that was restored: it waits, and green keeps what it needs', async () => {
    const run = await runs.begin({
      whereWritesAre: (_own, _ref, known) => {
        expect(known).toBe(2);
        throw ApplicationFailure.nonRetryable('green says that it has them since epoch 2', 'WritesUncertain');
      },
    });
    await run.saw('+watchStandby');
    await run.handle.cancel();
    await until(run.handle, 'blocked', (s) => /since epoch 2/.test(s.waiting?.why ?? ''));
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await failureOf(run);
    expect(run.log.filter((entry) => /undoReplication|releaseDatabases|removeFence/.test(entry))).toEqual([]);
  });

  it('and its watch goes on with what people were told of the feed: what is over meanwhile is told as over, and what blue has missed', async () => {
    const known: [string, number | undefined][] = [];
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (from === 'blue') return own.move(from);
        throw ApplicationFailure.nonRetryable('green: pid 4711 writes', 'PromotionBlocked');
      },
      watchStandby: (own, _ref, told, _epoch, missed) => {
        known.push([told, missed]);
        const isFirst = own.log.filter((entry) => entry === '+watchStandby').length === 1;
        if (isFirst) return { health: 'unreachable', rollbackSafe: false, why: 'away', lagSeconds: null, loses: null };
        if (own.log.includes('+unmovedOnGreen') && told === 'unreachable')
          return { health: 'healthy', rollbackSafe: true, why: 'fine', lagSeconds: 0, loses: null, missed: 2 };
        return untilCancelled();
      },
    });
    await until(run.handle, 'alarmed', (s) => s.alarms?.[0]?.state === 'unreachable');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const isOver = (s: MigrationStatus): boolean => s.alarms?.every(({ about }) => about !== 'feed') === true;
    const { alarms, rollback, waiting } = await until(run.handle, 'over', isOver, 120_000);
    expect(waiting?.why).toMatch(/pid 4711/);
    expect(alarms).toMatchObject([{ about: 'rows', state: 'missed' }]);
    expect(rollback.loses).toMatch(/2 changes that were made on green have met no row on blue/);
    await vi.waitFor(() => expect(known.at(-1)).toEqual(['healthy', 2]), 15_000);
    await run.handle.terminate();
  });
});
