import { describe, expect, it } from 'vitest';
import { questionPage } from '../../src/approval/page.js';
import { linesOf, overSince } from '../../src/cli/status-command.js';
import { bodyOf } from '../../src/notify/bodies.js';
import { planSchema } from '../../src/plan/schema.js';
import { happened, noticeOf, type Seen } from '../../workflows/lib/notices.js';
import { MigrationRun } from '../../workflows/lib/migration-run.js';
import { oneLine, shownFailure } from '../../workflows/lib/failure.js';
import { renderDetails } from '../../workflows/lib/render-details.js';
import { reportOf } from '../../workflows/lib/report.js';
import { heldFor } from '../../workflows/lib/status.js';
import { answerWith } from '../../workflows/lib/story.js';

const WHO = { by: 'ada', reason: 'looks good' };

function newRun(): MigrationRun {
  let seconds = 0;
  return new MigrationRun({ name: 'orders', workflowId: 'verdigris/orders', runId: 'r1' }, () =>
    new Date(1_000 * seconds++).toISOString(),
  );
}

describe('messages to a run', () => {
  it('asks before the retirement with the NOT NULL columns that nothing fills from then on', () => {
    const run = newRun();
    const table = 'public.orders';
    run.plan = planSchema.parse({
      ...{ version: 1, name: 'orders', blue: { connection: 'b' }, green: { connection: 'g' } },
      migrations: [
        { addColumn: { table, column: 'region', type: 'text', up: `'eu'`, notNull: true } },
        { addColumn: { table, column: 'kind', type: 'text', up: `'a'`, default: `'a'`, notNull: true } },
        { addColumn: { table, column: 'free', type: 'text', up: `'a'` } },
        {
          changeType: { table, column: 'a', newColumn: 'b', type: 'int', up: 'a::int', down: 'b::text', notNull: true },
        },
        { setNotNull: { table, column: 'note', up: `''` } },
      ],
    });
    run.askApproval('retire', 'why', 'answer');
    expect(run.status.waiting?.evidence?.at(-1)).toMatch(
      /code that leaves out public\.orders\.region, public\.orders\.b, public\.orders\.note \(NOT NULL\) is refused/,
    );
    run.askApproval('promote', 'why', 'answer');
    expect(run.status.waiting?.evidence?.join()).not.toContain('triggers:');
  });

  it('asks before the retirement with who else reads blue, and before that with what materialized views hold', () => {
    const run = newRun();
    run.filledViews = { views: 'shop.summary', at: '2026-11-02T10:00:00.000Z' };
    run.readersOfBlue = ['readers of blue: the slot "cdc" (pgoutput, connected)'];
    const evidence = (gate: string): string => {
      run.askApproval(gate, 'why', 'answer');
      return run.status.waiting?.evidence?.join('\n') ?? '';
    };
    for (const gate of ['traffic', 'promote']) {
      expect(evidence(gate)).toContain(
        'on green shop.summary hold what they were filled with at 2026-11-02T10:00:00.000Z',
      );
      expect(evidence(gate)).not.toContain('readers of blue');
    }
    expect(evidence('retire')).toContain('readers of blue: the slot "cdc" (pgoutput, connected)');
    expect(evidence('retire')).not.toContain('materialized views');
  });

  it('asks with the alarms that stand and what holds the run: by a link, in a channel and in the status', () => {
    const run = newRun();
    run.alarm('feed', 'unreachable', 'the worker has not reached green for 45 s', 'bring green back');
    run.alarm('WAL', 'half', 'blue keeps 6 GB of WAL', 'see why green is behind');
    run.allClear('WAL');
    run.hold({ why: 'DDL on blue: a column was added', answer: 'resume' });
    run.askApproval('promote', 'approval before writes move', 'answer');
    const { waiting } = run.status;
    const alarm =
      'ALARM (feed) since 1970-01-01T00:00:01.000Z: the worker has not reached green for 45 s. Next step: bring green back';
    const held = expect.stringMatching(/^HELD since [^ ]+: DDL on blue: a column was added$/) as string;
    expect(waiting?.evidence?.slice(0, 2)).toEqual([held, alarm]);
    const link = { workflowId: 'verdigris/orders', runId: 'r1', gate: 'promote', request: 'promote-1', expires: 60 };
    const notice = noticeOf(1, '2026-11-02T10:00:00.000Z', 'approval', 'approval', run.status);
    const shown = [questionPage(link, run.status), bodyOf('slack', run.status, notice, []), renderDetails(run.status)];
    for (const text of shown) {
      expect(text).toContain(alarm);
      expect(text).not.toContain('6 GB of WAL. Next step');
    }
    run.allClear('feed');
    expect(run.status.waiting?.evidence?.join()).not.toContain('ALARM');
  });

  it('refuses an approval that nobody waits for', () => {
    expect(newRun().refusal('approve', { gate: 'promote', ...WHO })).toMatch(/waits for no approval/);
  });

  it('refuses the approval of another gate than the one that is asked', () => {
    const run = newRun();
    run.askApproval('stage-10', 'why', 'answer');
    expect(run.refusal('approve', { gate: 'promote', ...WHO })).toMatch(/"stage-10", not "promote"/);
    expect(run.refusal('approve', { gate: 'stage-10', ...WHO })).toBeUndefined();
  });

  it('uses one approval once: asked again, it must be given again', () => {
    const run = newRun();
    run.askApproval('promote', 'why', 'answer');
    run.follow('approve', { gate: 'promote', ...WHO } as typeof WHO);
    expect(run.isApproved('promote')).toBe(true);
    run.askApproval('promote', 'again', 'answer');
    expect(run.isApproved('promote')).toBe(false);
  });

  it('asks for who and why', () => {
    const run = newRun();
    for (const payload of [
      undefined,
      null,
      'yes',
      {},
      { by: 'ada' },
      { by: ' ', reason: 'x' },
      { by: 1, reason: 'x' },
    ]) {
      expect(run.refusal('pause', payload), JSON.stringify(payload)).toMatch(/send/);
    }
    expect(run.refusal('pause', WHO)).toBeUndefined();
  });

  it('is paused no more when it is rolled back: nobody is told to resume', () => {
    const run = newRun();
    run.follow('pause', WHO);
    run.follow('rollback', WHO);
    run.rollingBack({
      ...{ reason: 'ada', startedAt: 'now', finishedAt: null, trafficBackMs: null },
      ...{ undone: [], notUndone: [] },
    });
    run.waitFor({ for: 'retry', why: 'blue is away' });
    expect(renderDetails(run.status)).not.toContain('Paused');
    expect(linesOf(run.status)).not.toContain('paused');
    expect(run.refusal('resume', WHO)).toMatch(/is being rolled back/);
  });

  it('says that it is paused while nothing else is waited for', () => {
    const run = newRun();
    run.follow('pause', WHO);
    expect(run.status.waiting).toBeNull();
    expect(renderDetails(run.status)).toContain('**Paused**: resume before it goes on');
    run.follow('resume', WHO);
    expect(renderDetails(run.status)).not.toContain('Paused');
  });

  it('waits for what has held it in its pause when it is paused no more', () => {
    const run = newRun();
    run.follow('pause', WHO);
    run.waitFor({ for: 'resume', why: 'paused by message', answer: 'resume' });
    run.hold({ why: 'table coupons is new', answer: 'resume' });
    expect(run.status.waiting?.why).toBe('paused by message');
    run.follow('resume', WHO);
    expect(run.status.waiting).toMatchObject({ for: 'resume', why: 'table coupons is new' });
  });

  it('pauses once, resumes only what is paused', () => {
    const run = newRun();
    expect(run.refusal('resume', WHO)).toMatch(/not paused/);
    run.follow('pause', WHO);
    expect(run.refusal('pause', WHO)).toMatch(/paused already/);
    run.follow('resume', WHO);
    expect(run.paused).toBe(false);
  });

  it('takes no rollback once replication is taken down, and no second one', () => {
    const run = newRun();
    run.retiring = true;
    expect(run.refusal('rollback', WHO)).toMatch(/no way back/);
    run.retiring = false;
    run.follow('rollback', WHO);
    expect(run.refusal('rollback', WHO)).toMatch(/being rolled back/);
    expect(run.refusal('approve', { gate: 'promote', ...WHO })).toMatch(/being rolled back/);
  });

  it('retires only in the standby window', () => {
    const run = newRun();
    expect(run.refusal('retire', WHO)).toMatch(/standby window/);
    run.enter('standby');
    expect(run.refusal('retire', WHO)).toBeUndefined();
  });

  it('keeps what was ignored, with the reason', () => {
    const run = newRun();
    run.ignore('approve', { gate: 'x' }, 'by and reason missing');
    expect(run.status.decisions).toMatchObject([
      { message: 'approve', by: 'unknown', ignored: 'by and reason missing' },
    ]);
  });
});

describe('the status of a run', () => {
  it('times its phases and tells each change', () => {
    const run = newRun();
    let changes = 0;
    run.onChange = () => changes++;
    run.enter('preflight');
    run.enter('replicate');
    run.end('completed', 'done');
    expect(run.status.phases.map((p) => [p.phase, p.finishedAt !== null])).toEqual([
      ['preflight', true],
      ['replicate', true],
    ]);
    expect(changes).toBeGreaterThanOrEqual(3);
  });

  it('is rendered with what it waits for and the command that answers', () => {
    const run = newRun();
    run.enter('promote');
    run.askApproval('promote', 'approval before writes move to green', 'temporal workflow update execute ...');
    const text = renderDetails(run.status);
    expect(text).toContain('approval before writes move to green');
    const short = `verdigris approve 'orders' promote --request promote-1 --by 'YOUR NAME' --reason 'WHY'`;
    expect(text).toContain(`${short}\n# or\ntemporal workflow update execute ...`);
    expect(text).toContain('▶ **promote**');
    expect(text).toContain('**Writes** on blue');
  });

  it('has no step for its headline that is over while approval is waited for', () => {
    const run = newRun();
    run.enter('promote');
    run.doing('comparing what has changed since');
    run.askApproval('promote', 'approval before writes move to green', 'temporal workflow update execute ...');
    expect(renderDetails(run.status)).toMatch(/^## orders: waiting for approval\n/);
    run.waitFor(null);
    expect(renderDetails(run.status)).toMatch(/^## orders: comparing what has changed since\n/);
  });

  it('has what it waits for as its headline where it goes no further: held, paused, before a window', () => {
    const run = newRun();
    const heading = (): string[] => [
      renderDetails(run.status).split('\n', 1)[0]?.replace('## orders: ', '') ?? '',
      linesOf(run.status)[0]?.replace('promote: ', '') ?? '',
    ];
    const both = (text: string): string[] => [text, text];
    run.enter('promote');
    run.doing('comparing what has changed since');
    expect(heading()).toEqual(both('comparing what has changed since'));
    run.waitFor({ for: 'window', why: 'promote waits until Sun 22:19: only Sun 22:14-22:16' });
    expect(heading()).toEqual(both('promote waits until Sun 22:19: only Sun 22:14-22:16'));
    run.waitFor({ for: 'resume', why: `gate failed (errors)\n${'x'.repeat(500)}`, answer: 'resume' });
    expect(heading()).toEqual(both('held: gate failed (errors)'));
    run.waitFor(null);
    run.hold({ why: `table ${'t'.repeat(500)}`, answer: 'resume' });
    expect(heading()[0]).toMatch(/^held: table t{100,160} \.\.\.$/);
    run.hold(null);
    run.follow('pause', WHO);
    expect(heading()).toEqual(both('pausing: comparing what has changed since'));
    run.waitFor({ for: 'resume', why: 'paused by message', answer: 'resume' });
    expect(heading()).toEqual(both('paused'));
    run.askApproval('promote', 'approval before writes move to green', 'answer');
    expect(heading()).toEqual(both('paused, and waiting for approval'));
  });

  it('says why a run was refused, and the next step: in its details, in watch and to webhooks; in one line what it does', () => {
    const message = [
      'the databases are not ready, nothing was touched:',
      '- green: public.a: green is not empty (green-empty)',
      '  Give an empty database',
      '- both: chat: no such connection (notify-connection)',
      '  Set it',
      'Next step: follow the remedy of each, then start again',
    ].join('\n');
    const run = newRun();
    const before = { status: run.status, evidence: [] };
    run.end('failed', oneLine(message), shownFailure(message));
    expect(run.status.now).toBe(
      'the databases are not ready, nothing was touched: green: public.a: green is not empty (green-empty) (and 1 more)',
    );
    const webhook = happened(before, { status: run.status, evidence: [] }).join();
    for (const text of [renderDetails(run.status), linesOf(run.status).join('\n'), webhook]) {
      expect(text).toMatch(
        /green is not empty[^]*Give an empty[^]*no such connection[^]*Set it[^]*Next step:[^]*start again/,
      );
    }
    expect(renderDetails(run.status)).toMatch(/^## orders: failed\n\nthe databases are not ready/);
  });

  it('shows of many findings as many as there is room for, and the next step', () => {
    const many = Array.from({ length: 400 }, (_, i) => `- blue: public.t${i}: the table has no key (keys)`).join('\n');
    const shown = shownFailure(`not ready:\n${many}\nNext step: mend them`);
    expect(shown.length).toBeLessThan(4_200);
    expect(shown).toMatch(
      /^not ready:\n- blue: public\.t0[^]*\n\.\.\. and \d+ more lines, [^\n]*\nNext step: mend them$/,
    );
    expect(shownFailure('x'.repeat(9_000)).length).toBeLessThan(4_200);
    expect(oneLine('no list\nNext step: none')).toBe('no list');
  });

  it('is not rendered with a lag that was measured before the writes moved', () => {
    const run = newRun();
    run.saw({ lagSeconds: 0.25 });
    expect(renderDetails(run.status)).toContain('**Lag** 0.250 s');
    const at = new Date(Date.parse(run.status.lagAt ?? '') + 30_000).toISOString();
    run.promoted({ from: 'blue', to: 'green', holdMs: 20, attempts: 1, epoch: 2, at });
    expect(renderDetails(run.status)).not.toContain('**Lag**');
    for (let second = 0; second < 60; second++) run.saw({ lagSeconds: 0.5 });
    expect(renderDetails(run.status)).toContain('**Lag** 0.500 s');
  });

  it.each([
    ['failed', '✗'],
    ['rolledBack', '✗'],
    ['cancelled', '✗'],
    ['completed', '✓'],
  ] as const)('marks the phase in which it has ended as %s with %s', (outcome, mark) => {
    const run = newRun();
    run.enter('preflight');
    run.enter('promote');
    run.end(outcome, 'over');
    const text = renderDetails(run.status);
    expect(text).toContain('- ✓ preflight');
    expect(text).toContain(`- ${mark} promote (`);
  });

  it('has commands that name the namespace of the run, unless it is the one that is asked anyway', () => {
    const identity = { name: 'orders', workflowId: 'verdigris/orders', runId: 'r1' };
    const answer = (more: object): string =>
      answerWith(new MigrationRun({ ...identity, ...more }, () => '2026-11-29T00:00:00Z'), 'resume');
    const plain = `temporal workflow update execute --workflow-id 'verdigris/orders' --name resume --input '{"by":"YOUR NAME","reason":"WHY"}'`;
    expect(answer({})).toBe(plain);
    expect(answer({ namespace: 'default' })).toBe(plain);
    expect(answer({ namespace: 'prod.x1y2z' })).toBe(plain.replace('execute', "execute --namespace 'prod.x1y2z'"));
  });
});

describe('an alarm', () => {
  it('is told once for each state, with the next step, and once when it is over', () => {
    const run = newRun();
    let before: Seen | null = null;
    const told: string[] = [];
    run.onChange = () => {
      const seen = { status: run.status, evidence: [] };
      told.push(...happened(before, seen).flatMap(([event, text]) => (event === 'alarm' ? [text] : [])));
      before = seen;
    };
    run.enter('standby');
    run.alarm('feed', 'broken', 'about 5 writes would be lost', 'mend it');
    run.alarm('feed', 'broken', 'about 9 writes would be lost', 'mend it');
    run.alarm('rows', 'differ', '1 row differs', 'find out');
    run.allClear('rows');
    run.allClear('rows');
    run.alarm('feed', 'dropped', 'it was dropped', 'stay');
    expect(run.status.alarms).toMatchObject([{ about: 'feed', state: 'dropped' }]);
    expect(renderDetails(run.status)).toContain('it was dropped. Next step: stay');
    run.end('completed', 'done');
    expect(told).toEqual([
      'about 5 writes would be lost. Next step: mend it',
      '1 row differs. Next step: find out',
      'over: 1 row differs',
      'it was dropped. Next step: stay',
    ]);
    expect(run.status.warnings).toHaveLength(4);
  });
});

it('warnings leave room for the report, however long they are', () => {
  const run = new MigrationRun({ name: 'n', workflowId: 'w', runId: 'r' }, () => '2026-11-28T00:00:00.000Z');
  for (let i = 0; i < 250; i++) run.warn([`${i} ${'row '.repeat(15_000)}`]);
  expect(run.status.warnings).toHaveLength(200);
  expect(JSON.stringify(reportOf(run)).length).toBeLessThan(1_000_000);
});

describe('a promotion', () => {
  it('whose worker died in the hold does not pass for one that held nobody', () => {
    const promoted = { from: 'blue', to: 'green', attempts: 1, epoch: 2, at: '2026-11-01T00:00:01Z' } as const;
    expect(heldFor({ ...promoted, holdMs: 17.25 })).toBe('held for 17.3 ms');
    expect(heldFor({ ...promoted, holdMs: null })).toMatch(/not measured/);
  });
});

describe('what people are shown', () => {
  it('has no progress of what is over: not after the end of the run, whatever comes late', () => {
    const progress = [{ step: 'verify', object: 'public.t', done: 1, total: 2, rowsPerSecond: 0, etaSeconds: null }];
    const run = newRun();
    run.progress(progress);
    expect(run.status.progress).toEqual(progress);
    run.end('completed', 'completed');
    expect(run.status.progress).toEqual([]);
    run.progress(progress);
    expect(run.status.progress).toEqual([]);
  });

  it('has no progress while it is held: nobody works, whatever time was left', () => {
    const progress = [{ step: 'copy', object: 'public.t', done: 1, total: 2, rowsPerSecond: 9, etaSeconds: 2 }];
    const run = newRun();
    run.progress(progress);
    run.waitFor({ for: 'lag', why: 'lag below 1s' });
    expect(run.status.progress).toEqual(progress);
    run.waitFor({ for: 'resume', why: 'a row is in the way', answer: 'resume' });
    expect(run.status.progress).toEqual([]);
  });

  it('beside a question: a gate that only watches as that, and no lag of the other direction', () => {
    const run = newRun();
    const NONE = { requests: 0, errors: 0 };
    const failed = {
      at: 'T',
      where: 'stage 10 %',
      metric: 'p95',
      windowSeconds: 1,
      because: 'slow',
      green: NONE,
      blue: NONE,
    } as const;
    run.keep([{ ...failed, outcome: 'fail', dryRun: true }]);
    run.saw({ lagSeconds: 0.12 });
    const evidence = (): string => {
      run.askApproval('retire', 'why', 'answer');
      return run.status.waiting?.evidence?.join('\n') ?? '';
    };
    expect(evidence()).toContain('gate p95: fail (dry run), slow');
    expect(evidence()).toContain('lag: 0.120 s');
    const at = new Date(60_000).toISOString();
    run.promoted({ from: 'blue', to: 'green', holdMs: 1, attempts: 1, epoch: 2, at });
    expect(evidence()).toContain('lag: not measured since writes moved');
  });

  it('who watches sees alarms with their next step and their end, a hold with its answer, and a way back that is not safe', () => {
    const run = newRun();
    run.alarm('feed', 'broken', 'blue does not follow', 'mend it');
    run.hold({ why: 'DDL on blue', answer: 'resume' });
    run.saw({ rollback: { safe: false, why: 'blue is away' } });
    const lines = linesOf(run.status);
    expect(lines).toContain('alarm: blue does not follow\n          next step: mend it');
    expect(lines).toContain('held: DDL on blue\n          answer with: resume');
    expect(lines).toContain('rollback NOT safe: blue is away');
    const { alarms = [] } = run.status;
    expect(overSince(alarms, run.status)).toEqual([]);
    run.allClear('feed');
    expect(overSince(alarms, run.status)).toEqual(['over: blue does not follow']);
  });
});
