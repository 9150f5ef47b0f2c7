import { describe, expect, it } from 'vitest';
import { parsePlan } from '../../src/plan/parse.js';
import type { PlanInput } from '../../src/plan/schema.js';
import { MigrationRun } from '../../workflows/lib/migration-run.js';
import { noticeOf } from '../../workflows/lib/notices.js';
import { renderDetails } from '../../workflows/lib/render-details.js';

class Clock {
  constructor(public ms = Date.parse('2026-11-23T10:00:00Z')) {}
  readonly now = (): string => new Date(this.ms).toISOString();
}

function asked(approval: NonNullable<PlanInput['traffic']>['approval'] = {}): { run: MigrationRun; clock: Clock } {
  const clock = new Clock();
  const run = new MigrationRun({ name: 'orders', workflowId: 'verdigris/orders', runId: 'r1' }, clock.now);
  const parsed = parsePlan({
    name: 'orders',
    blue: { connection: 'b' },
    green: { connection: 'g' },
    traffic: { approval },
  });
  if (!('plan' in parsed)) throw new Error(JSON.stringify(parsed.findings));
  run.plan = parsed.plan;
  run.askApproval('promote', 'approval before writes move to green', 'answer');
  return { run, clock };
}

const by = (name: string, more: object = {}): { gate: string; by: string; reason: string } => ({
  gate: 'promote',
  by: name,
  reason: 'numbers are good',
  ...more,
});

describe('an approval', () => {
  it('is taken from those whom the plan names, however they spell it, and from nobody else', () => {
    const { run } = asked({ by: ['Ada', 'Grace Hopper'] });
    expect(run.refusal('approve', by('mallory'))).toBe(
      '"mallory" may not approve this: the plan names Ada, Grace Hopper',
    );
    expect(run.refusal('approve', by('ada2'))).toMatch(/may not approve/);
    for (const name of ['Ada', ' ada ', 'ＡＤＡ', 'grace  hopper', 'Ada\u200b']) {
      expect(run.refusal('approve', by(name)), name).toBeUndefined();
    }
  });

  it('completes a quorum of different people: the same one twice counts once', () => {
    const { run } = asked({ by: ['ada', 'grace', 'linus'], quorum: 2 });
    expect(run.follow('approve', by('ada'))).toBe('noted: 1 of 2 have approved promote (ada)');
    expect(run.isApproved('promote')).toBe(false);
    expect(run.refusal('approve', by('ADA '))).toMatch(/has approved this already, at .*: 1 of 2; another person must/);
    expect(run.status.waiting).toMatchObject({ for: 'approval', quorum: 2, approvals: [{ by: 'ada' }] });
    expect(run.follow('approve', by('linus'))).toBe('approved: promote, by ada, linus');
    expect(run.isApproved('promote')).toBe(true);
    expect(run.refusal('approve', by('grace'))).toMatch(/waits for no approval/);
  });

  it('counts no more when it is older than the plan says, and may be given again', () => {
    const { run, clock } = asked({ quorum: 2, validFor: '1h' });
    run.follow('approve', by('ada'));
    clock.ms += 3_600_000;
    expect(run.refusal('approve', by('ada'))).toMatch(/already/);
    clock.ms += 1;
    expect(run.follow('approve', by('grace'))).toMatch(/^noted: 1 of 2 have approved promote \(grace\)/);
    expect(run.isApproved('promote')).toBe(false);
    expect(run.refusal('approve', by('ada'))).toBeUndefined();
    run.follow('approve', by('ada'));
    expect(run.isApproved('promote')).toBe(true);
    // What it was for has not begun for so long.
    expect(run.approvalExpired('promote')).toBeUndefined();
    clock.ms += 3_600_001;
    expect(run.approvalExpired('promote')).toBe('2026-11-23T12:00:00.001Z');
  });

  it('answers the question that it names and no other, also of the same gate', () => {
    const { run } = asked();
    expect(run.status.waiting?.request).toBe('promote-1');
    run.follow('approve', by('ada', { request: 'promote-1' }));
    run.askApproval('promote', 'it did not work', 'answer');
    expect(run.isApproved('promote')).toBe(false);
    expect(run.refusal('approve', by('ada', { request: 'promote-1' }))).toBe(
      'that answers another question ("promote-1"); the run asks "promote-2" now',
    );
    expect(run.refusal('approve', by('ada', { request: 2 }))).toMatch(/is a text/);
    // It may be the first one, sent twice.
    expect(run.refusal('approve', by('ada'))).toBe(
      '"promote" is asked for again, and that may be meant for an earlier question: send it with "request": "promote-2"',
    );
    expect(run.refusal('approve', by('ada', { request: 'promote-2' }))).toBeUndefined();
    run.follow('approve', by('ada', { request: 'promote-2' }));
    expect(run.status.decisions.map(({ request }) => request)).toEqual(['promote-1', 'promote-2']);
  });

  it('is asked with what is known: gates, lag, verification, the way back; also in the current details', () => {
    const { run, clock } = asked({ by: ['ada'], quorum: 1 });
    const numbers = { requests: 3_000, errors: 0 };
    const evidence = { at: 'T1', where: 'stage 10 %', windowSeconds: 900, green: numbers, blue: numbers };
    run.keep([
      { ...evidence, where: 'stage 1 %', metric: 'p99', outcome: 'pass', because: 'an older stage' },
      { ...evidence, metric: 'errorRate', outcome: 'inconclusive', because: 'too few' },
      { ...evidence, metric: 'errorRate', outcome: 'pass', because: '0 of 3000 failed' },
    ]);
    clock.ms += 60_000;
    run.saw({ lagSeconds: 0.0123 });
    // A weekend later these are what they were.
    clock.ms += 2 * 24 * 3_600_000;
    run.verified({ scope: 'all', tables: 3, rowsVerified: 500, differingRows: 0, at: 'T0' });
    expect(run.status.waiting?.evidence).toEqual([
      'writes on blue, reads of 0 % of the users on green',
      'gate errorRate: pass, 0 of 3000 failed (stage 10 %, T1)',
      'lag: 0.012 s (2026-11-23T10:01:00.000Z)',
      'verification: 0 of 500 rows differ (T0)',
      'rollback: safe, nothing has been touched yet (2026-11-23T10:00:00.000Z)',
    ]);
    const details = renderDetails(run.status);
    expect(details).toContain('Question promote-1; may approve: ada');
    expect(details).toContain('- gate errorRate: pass, 0 of 3000 failed (stage 10 %, T1)');
    expect(details).toContain('- **Lag** 0.012 s at 2026-11-23T10:01:00.000Z');
    const notice = noticeOf(1, clock.now(), 'approval', 'approval before promote', run.status);
    expect(notice).toMatchObject({ lagSeconds: 0.0123, lagAt: '2026-11-23T10:01:00.000Z' });
    expect(notice.waiting?.evidence).toContain('lag: 0.012 s (2026-11-23T10:01:00.000Z)');
  });

  it('is asked with the time at which the gates saw the lag, however late the run hears of it', () => {
    const { run } = asked();
    run.sawLag(0.5, '2026-11-20T17:00:00.000Z');
    expect(run.status.waiting?.evidence).toContain('lag: 0.500 s (2026-11-20T17:00:00.000Z)');
    run.sawLag(null, '2026-11-20T18:00:00.000Z');
    expect(run.status).toMatchObject({ lagSeconds: null, lagAt: null });
  });

  it('that nobody gives is asked for again, in the warnings too', () => {
    const { run } = asked();
    run.remindOfApproval();
    run.remindOfApproval();
    expect(run.status.waiting?.reminders).toBe(2);
    expect(run.status.warnings).toEqual([
      'approval before writes move to green: nobody has answered the question promote-1 since 2026-11-23T10:00:00.000Z',
    ]);
  });

  it('works in a run whose plan was written down before plans could say who approves', () => {
    const { run } = asked();
    if (run.plan === null) throw new Error('no plan');
    run.plan = { ...run.plan, traffic: { ...run.plan.traffic, approval: { before: ['promote'] } as never } };
    run.askApproval('promote', 'why', 'answer');
    run.follow('approve', by('anybody'));
    expect(run.isApproved('promote')).toBe(true);
  });
});
