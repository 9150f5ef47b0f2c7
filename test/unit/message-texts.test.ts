import { beforeEach, describe, expect, it, vi } from 'vitest';
import { shortened } from '../../src/failure-text.js';
import { tooLong } from '../../workflows/lib/message-texts.js';
import { MigrationRun } from '../../workflows/lib/migration-run.js';
import { registerMessages } from '../../workflows/lib/register-messages.js';

interface Options {
  readonly validator?: (payload: unknown) => void;
}

const temporal = vi.hoisted(() => ({
  handlers: new Map<string, { handle: (payload: unknown) => unknown; options: Options }>(),
  /** Whether the run is one of this version, or was begun by one without a limit. */
  isPatched: true,
  asked: 0,
}));

vi.mock('@temporalio/workflow', async (original) => ({
  ...(await original()),
  setHandler: ({ type, name }: { type: string; name: string }, handle: () => unknown, options: Options) =>
    temporal.handlers.set(`${type} ${name}`, { handle, options }),
  setDefaultSignalHandler: () => undefined,
  patched: () => ++temporal.asked > 0 && temporal.isPatched,
}));

const WHO = { by: 'ada', reason: 'it is on fire' };
const LOG = 'x'.repeat(1_200_000);

let run: MigrationRun;
const followed: string[] = [];

beforeEach(() => {
  Object.assign(temporal, { isPatched: true, asked: 0 });
  followed.length = 0;
  run = new MigrationRun({ name: 'orders', workflowId: 'verdigris/orders', runId: 'r1' }, () => '2026-11-24T01:00:00Z');
  registerMessages(run, (message) => followed.push(message));
});

const signal = (name: string, payload: unknown): unknown => temporal.handlers.get(`signal ${name}`)?.handle(payload);
const check = (name: string, payload: unknown): void =>
  temporal.handlers.get(`update ${name}`)?.options.validator?.(payload);

describe('the texts of a message', () => {
  it.each([
    ['by', 100],
    ['gate', 100],
    ['request', 100],
    ['reason', 2_000],
  ])('have a limit: "%s" has %i characters at most', (field, most) => {
    expect(tooLong({ ...WHO, [field]: 'x'.repeat(most) })).toBeUndefined();
    expect(tooLong({ ...WHO, [field]: 'x'.repeat(most + 1) })).toBe(
      `"${field}" has ${most + 1} characters: send ${most} at most`,
    );
  });

  it('that are too long are refused by an update, each of them named', () => {
    const payload = { by: 'x'.repeat(101), reason: LOG };
    expect(() => check('rollback', payload)).toThrow(/"by" has 101 characters.*"reason" has 1200000 characters/);
    expect(() => check('rollback', WHO)).not.toThrow();
    expect(temporal.asked).toBe(0);
  });

  it('that are too long have a signal ignored, which is kept without them', () => {
    run.askApproval('promote', 'why', 'answer');
    signal('rollback', { ...WHO, reason: LOG });
    signal('approve', { by: LOG, gate: LOG, request: LOG, reason: LOG });
    expect(followed).toEqual([]);
    expect(run.rollbackRequest).toBeNull();
    expect(run.isApproved('promote')).toBe(false);
    const [rollback] = run.status.decisions;
    expect(rollback?.ignored).toBe('"reason" has 1200000 characters: send 2000 at most');
    expect(JSON.stringify(run.status.decisions).length).toBeLessThan(5_000);
  });

  it('of a name that no message has are cut, too', () => {
    run.ignore('r'.repeat(1_000), { ...WHO, reason: LOG }, 'there is no message of that name');
    expect(JSON.stringify(run.status.decisions).length).toBeLessThan(1_000);
  });

  it('are followed as they were where an earlier version has followed them, and kept cut: the run can end', () => {
    temporal.isPatched = false;
    signal('rollback', { ...WHO, reason: LOG });
    expect(followed).toEqual(['rollback']);
    expect(run.rollbackRequest).toMatchObject({
      by: 'ada',
      reason: expect.stringMatching(/^x{1996} \.\.\.$/) as string,
    });
    expect(JSON.stringify(run.status).length).toBeLessThan(10_000);
  });

  it('that are short leave no mark in the history', () => {
    signal('pause', WHO);
    expect(followed).toEqual(['pause']);
    expect(temporal.asked).toBe(0);
  });

  it('are not cut within a character', () => {
    expect(shortened('🟢'.repeat(60), 100)).toBe(`${'🟢'.repeat(48)} ...`);
    expect(shortened(`x${'🟢'.repeat(60)}`, 100)).toBe(`x${'🟢'.repeat(47)} ...`);
    expect(shortened('🟢'.repeat(50), 100)).toBe('🟢'.repeat(50));
  });
});
