import { describe, expect, it, vi } from 'vitest';
import type { Progress } from '../../src/postgres/migrate/step-context.js';
import { isProgress } from '../../src/progress.js';
import { MigrationRun } from '../../workflows/lib/migration-run.js';
import { publishChanges } from '../../workflows/lib/publish.js';
import { renderDetails } from '../../workflows/lib/render-details.js';

const told = vi.hoisted(() => ({ details: '' }));

vi.mock('@temporalio/workflow', async (original) => ({
  ...(await original<object>()),
  setCurrentDetails: (text: string) => void (told.details = text),
  upsertSearchAttributes: () => undefined,
  patched: () => false,
}));

const PROGRESS = { step: 'copy', object: 'public.t', done: 0, total: 1, rowsPerSecond: 0, etaSeconds: null };
/** What has no text: JSON can say it, so anybody can send it. */
const NO_TEXT = { valueOf: 1, toString: 1 };

function newRun(): MigrationRun {
  const identity = { name: 'orders', workflowId: 'verdigris/orders', runId: 'r1' };
  return new MigrationRun(identity, () => '2026-11-29T00:00:00Z');
}

describe('progress that somebody else sends', () => {
  it.each([
    ['note', NO_TEXT],
    ['bytes', NO_TEXT],
    ['bytesPerSecond', NO_TEXT],
    ['note', 7],
    ['bytes', null],
    ['done', 1e999],
    ['etaSeconds', 1e999],
    ['etaSeconds', undefined],
  ])('is not shown with %s %o, and the run goes on', (field, value) => {
    const run = newRun();
    publishChanges(run, () => undefined);
    expect(() => run.progress([{ ...PROGRESS, [field]: value }, PROGRESS])).not.toThrow();
    expect(run.status.progress).toEqual([PROGRESS]);
    expect(renderDetails(run.status)).toContain('copy public.t');
  });

  it('is shown when it has what an activity sends', () => {
    for (const more of [{}, { note: 'waits', bytes: 8, bytesPerSecond: 0 }, { etaSeconds: 1.5 }]) {
      expect(isProgress({ ...PROGRESS, ...more }), JSON.stringify(more)).toBe(true);
    }
  });
});

it('details that can not be put in words do not fail the run', () => {
  const run = newRun();
  publishChanges(run, () => undefined);
  expect(told.details).toContain('orders: starting');
  Object.assign(run.status.progress, [{ ...PROGRESS, note: NO_TEXT } as unknown as Progress]);
  expect(() => renderDetails(run.status)).toThrow(TypeError);
  run.warn(['a warning']);
  expect(told.details).toMatch(/preflight[^]*No details: .*[^]*query `status`/);
});
