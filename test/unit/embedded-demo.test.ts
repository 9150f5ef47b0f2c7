import { describe, expect, it } from 'vitest';
import { MigrationCommands } from '../../src/embedded/commands.js';
import { shortPlan } from '../../src/embedded/demo-plan.js';
import { brokenPromises, demoResult, resultTable, type Measured } from '../../src/embedded/demo-result.js';
import { LiveView } from '../../src/embedded/live-view.js';
import { planSchema } from '../../src/plan/schema.js';
import type { ShopStatistics } from '../../src/embedded/shop/measurements.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';

const status: MigrationStatus = {
  name: 'shop',
  workflowId: 'verdigris/shop',
  runId: 'r',
  outcome: 'completed',
  phase: 'retire',
  phases: [{ phase: 'preflight', startedAt: '2026-11-01T00:00:00Z', finishedAt: '2026-11-01T00:00:02Z' }],
  now: 'completed',
  progress: [],
  waiting: null,
  paused: false,
  writesOn: 'green',
  greenReadPercent: 100,
  lagSeconds: 0.1,
  rollback: { safe: false, why: 'retired' },
  rollingBack: null,
  verification: { tables: 5, rowsVerified: 1_000, differingRows: 0, at: '2026-11-01T00:00:01Z' },
  promotion: { from: 'blue', to: 'green', holdMs: 17, attempts: 1, epoch: 2, at: '2026-11-01T00:00:01Z' },
  decisions: [],
  warnings: [],
};
const statistics: ShopStatistics = {
  window: 'after',
  requests: 1_234,
  failedRequests: 0,
  reads: { blue: 500, green: 400 },
  writes: { blue: 200, green: 134 },
  failures: {},
  errorRate: { before: 0, during: 0, after: 0 },
  latencyMs: { blue: { p50: 1, p95: 2, p99: 3 }, green: { p50: null, p95: null, p99: null } },
  maxWriteMs: { before: 12, during: 30, after: 31 },
  downtimeMs: 0,
  longestWriteGapMs: 40,
  uptimeMs: 60_000,
};
const measured: Measured = {
  status,
  statistics,
  audit: {
    side: 'green',
    acknowledgedWrites: 334,
    lostWrites: 0,
    duplicatedWrites: 0,
    phantomWrites: 0,
    wrongBalances: 0,
    examples: [],
  },
  maxWriteHoldMs: 30,
  historyEvents: 321,
  migrationMs: 90_000,
};

describe('the result of the demo', () => {
  it('has the fields that are promised to whoever reads the JSON', () => {
    expect(Object.keys(demoResult(measured))).toEqual(
      expect.arrayContaining([
        ...['outcome', 'requests', 'failedRequests', 'acknowledgedWrites', 'lostWrites', 'duplicatedWrites'],
        ...['downtimeMs', 'maxWriteHoldMs', 'errorRate', 'latencyMs', 'rowsVerified', 'differingRows', 'rollbackMs'],
        ...['phases', 'workflowId', 'historyEvents'],
      ]),
    );
  });

  it('is good when every promise was kept', () => {
    expect(brokenPromises(demoResult(measured), 'completed')).toEqual([]);
  });

  it.each([
    ['a lost write', { audit: { ...measured.audit, lostWrites: 1 } }],
    ['a write that came twice', { audit: { ...measured.audit, duplicatedWrites: 1 } }],
    ['a write that was reported as failed', { audit: { ...measured.audit, phantomWrites: 1 } }],
    ['a lost update', { audit: { ...measured.audit, wrongBalances: 1 } }],
    ['a failed request', { statistics: { ...statistics, failedRequests: 1 } }],
    ['another outcome', { status: { ...status, outcome: 'rolledBack' as const } }],
    ['writes on the wrong side', { audit: { ...measured.audit, side: 'blue' as const } }],
  ])('is broken by %s', (_what, change) => {
    expect(brokenPromises(demoResult({ ...measured, ...change }), 'completed')).toHaveLength(1);
  });

  it('can be read by people', () => {
    const table = resultTable(demoResult(measured), 'http://127.0.0.1:8233/x');
    expect(table).toContain('0 of 1,234');
    expect(table).toMatch(/Latency, green +no requests/);
    expect(table).toContain('http://127.0.0.1:8233/x');
  });

  it('says of a hold whose worker died that it was not measured, and not that no write was held', () => {
    const promotion = { from: 'blue', to: 'green', holdMs: null, attempts: 1, epoch: 2, at: 'T' } as const;
    const died = { ...measured, status: { ...status, promotion } };
    expect(resultTable(demoResult(died), '')).toMatch(/30\s*ms \(writes were closed for a time that was not measured;/);
    const none = { ...measured, maxWriteHoldMs: 0, status: { ...status, promotion: null } };
    expect(resultTable(demoResult(none), '')).toContain('none was held;');
  });
});

describe('the plan of the demo', () => {
  it("is the seed's plan with shorter waits, and valid", () => {
    const plan = planSchema.parse(shortPlan({ stage: '3s', standby: '7s', rate: 1_000 }));
    expect(plan.traffic.stages.map((stage) => `${stage.percent} ${stage.for}`)).toEqual([
      ...['1 3s', '10 3s', '50 3s', '100 3s'],
    ]);
    expect(plan.standby.for).toBe('7s');
    expect(plan.migrations).toHaveLength(9);
    expect(plan.traffic.approval.before).toEqual(['promote']);
  });
});

describe('the commands that are printed', () => {
  it('can be pasted into a shell', () => {
    const commands = new MigrationCommands('/opt/my tools/temporal', '127.0.0.1:7', 'shop');
    expect(commands.print(commands.signal('approve', { gate: 'promote', by: 'me', reason: "it's fine" }))).toBe(
      `'/opt/my tools/temporal' workflow signal --address 127.0.0.1:7 --workflow-id verdigris/shop --name approve --input '{"gate":"promote","by":"me","reason":"it'\\''s fine"}'`,
    );
  });
});

describe('the live view', () => {
  const view = (isTTY: boolean): { text: () => string; view: LiveView } => {
    let text = '';
    return {
      text: () => text,
      view: new LiveView({ isTTY, columns: 60, write: (chunk) => void (text += chunk) }),
    };
  };

  it('writes a line for each change where there is no terminal, and not one for each look', () => {
    const { view: plain, text } = view(false);
    plain.update(status, statistics);
    plain.update(status, { ...statistics, requests: 2_000 });
    expect(text().match(/retire: completed/g)).toHaveLength(1);
    expect(text()).not.toContain('\u001b[2F');
  });

  it('draws its two lines again on a terminal, no wider than it', () => {
    const { view: terminal, text } = view(true);
    terminal.update(status, statistics);
    terminal.update(status, { ...statistics, requests: 2_000 });
    expect(text()).toContain('\u001b[2F\u001b[J');
    for (const line of text().split('\n')) expect(line.replace('\u001b[2F\u001b[J', '').length).toBeLessThan(60);
  });
});
