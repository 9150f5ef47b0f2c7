import { describe, expect, it } from 'vitest';
import { isUrgent, NOTICE_EVENTS } from '../../src/plan/notice-events.js';
import { MigrationRun } from '../../workflows/lib/migration-run.js';
import { happened, type Seen } from '../../workflows/lib/notices.js';

function look(run: MigrationRun): Seen {
  return { status: run.status, evidence: [] };
}

describe('what webhooks are told', () => {
  it.each(['resume', 'confirmation', 'retry'] as const)(
    'a run that waits for a person (%s) is held, once; one that waits for itself is not',
    (kind) => {
      const run = new MigrationRun({ name: 'n', workflowId: 'w', runId: 'r' }, () => '2026-11-28T00:00:00.000Z');
      const before = look(run);
      run.waitFor({ for: kind, why: 'asking blue where writes are' });
      expect(happened(before, look(run))).toEqual([]);
      run.waitFor({ for: kind, why: 'a rollback would lose 7 writes', answer: 'temporal workflow update ...' });
      const held = look(run);
      expect(happened(before, held)).toEqual([['held', 'held: a rollback would lose 7 writes']]);
      expect(happened(held, look(run))).toEqual([]);
    },
  );

  it('that the standby window has begun, with when it ends and what code must do by then', () => {
    const run = new MigrationRun({ name: 'n', workflowId: 'w', runId: 'r' }, () => '2026-11-28T00:00:00.000Z');
    const before = look(run);
    run.enter('standby');
    run.waitFor({ for: 'standby', why: 'the standby window lasts until then; deploy code' });
    expect(happened(before, look(run))).toEqual([
      ['phase', 'phase standby has begun: the standby window lasts until then; deploy code'],
    ]);
  });

  it('at once, however much has been sent, is everything but what needs nobody', () => {
    expect(NOTICE_EVENTS.filter((event) => !isUrgent(event))).toEqual(['phase', 'stage']);
  });

  it('an approval that is asked for is not held, too', () => {
    const run = new MigrationRun({ name: 'n', workflowId: 'w', runId: 'r' }, () => '2026-11-28T00:00:00.000Z');
    const before = look(run);
    run.askApproval('promote', 'approval before writes move to green', 'answer');
    expect(happened(before, look(run)).map(([event]) => event)).toEqual(['approval']);
  });
});
