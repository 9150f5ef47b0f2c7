import { describe, expect, it } from 'vitest';
import type { Finding } from '../../src/plan/finding.js';
import { formatFinding } from '../../src/plan/finding.js';
import { parsePlan } from '../../src/plan/parse.js';
import { indexSettings } from '../../src/postgres/migrate/index-settings.js';

const base = { name: 'orders', blue: { connection: 'orders_blue' }, green: { connection: 'orders_green' } };

function findings(plan: unknown): Finding[] {
  const parsed = parsePlan(plan);
  return 'findings' in parsed ? parsed.findings : [];
}

describe('a plan of the wrong form', () => {
  it.each<[string, object, Partial<Record<keyof Finding, unknown>>]>([
    [
      'a misspelt field names the nearest one',
      { migratons: [] },
      { rule: 'unknown-field', place: 'migratons', instead: 'write "migrations"' },
    ],
    [
      'a misspelt operation names the nearest one',
      { migrations: [{ addcolum: {} }] },
      { rule: 'unknown-operation', place: 'migrations[0]', instead: 'write "addColumn"' },
    ],
    [
      'a field of an operation is judged by that operation alone',
      { migrations: [{ addColumn: { table: 't', column: 'c', typ: 'int', type: 'int' } }] },
      { rule: 'unknown-field', place: 'migrations[0].addColumn.typ', instead: 'write "type"' },
    ],
    [
      'a missing field of an operation is named',
      { migrations: [{ sql: { name: 'view', up: 'SELECT 1' } }] },
      {
        rule: 'missing-field',
        place: 'migrations[0].sql.down',
        instead: expect.stringContaining('undoes "up" when the run is rolled back'),
      },
    ],
    [
      'a missing name of an index is not asked for as that of a plan',
      { migrations: [{ createIndex: { table: 't', columns: ['c'] } }] },
      { place: 'migrations[0].createIndex.name', instead: 'add "name": "orders_status_idx"' },
    ],
    [
      'two operations are two steps',
      { migrations: [{ addColumn: { table: 't', column: 'c', type: 'int' }, sql: {} }] },
      { rule: 'unknown-operation', place: 'migrations[0].sql', instead: expect.stringContaining('step of its own') },
    ],
    [
      'nested fields are judged too',
      {
        migrations: [
          {
            addConstraint: {
              table: 't',
              name: 'n',
              foreignKey: { columns: ['a'], references: { table: 'u', cols: [] } },
            },
          },
        ],
      },
      { rule: 'missing-field', place: 'migrations[0].addConstraint.foreignKey.references.columns' },
    ],
    [
      'a constraint is one of two',
      { migrations: [{ addConstraint: { table: 't', name: 'n' } }] },
      { place: 'migrations[0].addConstraint', instead: 'give one of "check", "foreignKey", "unique" and "primaryKey"' },
    ],
    [
      'a gate is known by its metric',
      { traffic: { gates: [{ metric: 'p99' }] } },
      { place: 'traffic.gates[0]', instead: 'give "max" or "maxIncrease"' },
    ],
    [
      'an unknown metric lists the known ones',
      { traffic: { gates: [{ metric: 'latency', max: '1s' }] } },
      { place: 'traffic.gates[0].metric', instead: expect.stringContaining('errorRate, p50, p95, p99') },
    ],
    [
      'a duration says how it is written',
      { standby: { for: '2 days' } },
      { place: 'standby.for', instead: expect.stringContaining('15m, 48h or 2d') },
    ],
    ['a wrong choice names the nearest', { traffic: { onFail: 'rolback' } }, { instead: 'write "rollback"' }],
    [
      'an approval point is a word or a percent',
      { traffic: { approval: { before: ['promotion'] } } },
      { place: 'traffic.approval.before[0]', instead: expect.stringContaining('the percent of a stage') },
    ],
    [
      'the version of the application has parts that can be compared',
      { traffic: { instances: { minVersion: 'release-2.1' } } },
      { place: 'traffic.instances.minVersion', instead: expect.stringContaining('a version such as 2.1.0') },
    ],
    [
      'another version is refused',
      { version: 2 },
      { place: 'version', instead: expect.stringContaining('"version": 1') },
    ],
    [
      'a version in quotes is refused, with the number that it must be',
      { version: '1' },
      { place: 'version', instead: expect.stringContaining('"version": 1') },
    ],
    [
      'a name that PostgreSQL would cut is refused, counted in bytes',
      { migrations: [{ addColumn: { table: 't', column: 'ü'.repeat(32), type: 'int' } }] },
      { place: 'migrations[0].addColumn.column', instead: expect.stringContaining('63 bytes') },
    ],
  ])('%s', (_rule, part, expected) => {
    const found = findings({ ...base, ...part });
    expect(found[0]).toMatchObject({ severity: 'error', ...expected });
  });

  it.each([
    [{ replicate: { maxLag: '0s' } }, 'replicate.maxLag', 'from 100ms to 1d'],
    [{ replicate: { maxLag: '9999d' } }, 'replicate.maxLag', 'from 100ms to 1d'],
    [{ replicate: { holdFor: '2d' } }, 'replicate.holdFor', 'from 0s to 1d'],
    [{ backfill: { maxLag: '0s' } }, 'backfill.maxLag', 'from 100ms to 1d'],
    [{ backfill: { batch: '0ms' } }, 'backfill.batch', 'from 1ms to 10m'],
    [{ backfill: { besideOthers: { batch: '1h' } } }, 'backfill.besideOthers.batch', 'from 1ms to 10m'],
    [{ indexes: { maxBlocking: '0s' } }, 'indexes.maxBlocking', 'from 100ms to 1h'],
    [{ promote: { maxHold: '0s' } }, 'promote.maxHold', 'from 50ms to 10m'],
    [{ standby: { for: '0s' } }, 'standby.for', 'from 1s to 365d'],
    [{ standby: { for: '99999999d' } }, 'standby.for', 'from 1s to 365d'],
    [{ standby: { verifyEvery: '0s' } }, 'standby.verifyEvery', 'from 1s to 365d'],
    [{ traffic: { approval: { validFor: '0s' } } }, 'traffic.approval.validFor', 'from 1s to 365d'],
    [{ traffic: { approval: { validFor: '99999999d' } } }, 'traffic.approval.validFor', 'from 1s to 365d'],
    [{ traffic: { approval: { remindAfter: '0s' } } }, 'traffic.approval.remindAfter', 'from 1s to 365d'],
    [{ traffic: { maxStageDuration: '9999999d' } }, 'traffic.maxStageDuration', 'from 0s to 365d'],
    [{ traffic: { stages: [{ percent: 1, for: '366d' }] } }, 'traffic.stages[0].for', 'from 0s to 365d'],
    [{ traffic: { gates: [{ metric: 'lag', max: '0s' }] } }, 'traffic.gates[0].max', 'from 100ms to 1d'],
    [{ traffic: { gates: [{ metric: 'p99', max: '0s' }] } }, 'traffic.gates[0].max', 'from 1ms to 1h'],
    [{ traffic: { gates: [{ metric: 'p50', maxIncrease: '0ms' }] } }, 'traffic.gates[0].maxIncrease', 'from 1ms to 1h'],
    [
      { traffic: { gates: [{ metric: 'blockingLocks', longerThan: '0s' }] } },
      'traffic.gates[0].longerThan',
      'from 100ms to 1d',
    ],
    [{ traffic: { gates: [{ metric: 'longTransactions', max: '0s' }] } }, 'traffic.gates[0].max', 'from 1s to 30d'],
    [
      { traffic: { webhooks: [{ connection: 'dns', deadline: '0s' }] } },
      'traffic.webhooks[0].deadline',
      'from 1s to 30d',
    ],
  ])(
    '%j is out of bounds: nothing would ever happen, or happen at once, or no clock could say it',
    (part, place, bounds) => {
      expect(findings({ ...base, ...part })).toMatchObject([
        { rule: 'invalid-value', severity: 'error', place, instead: `write a time ${bounds}` },
      ]);
    },
  );

  it('compares a query with blue only where it names the side, however that is spaced', () => {
    const found = (query: string): Finding[] =>
      findings({
        ...base,
        traffic: { gates: [{ metric: 'prometheus', name: 'p99', connection: 'p', query, maxIncrease: 50 }] },
      });
    for (const side of ['{{side}}', '{{ side }}', '{{side }}']) expect(found(`p99{side="${side}"}`), side).toEqual([]);
    expect(found('p99{side="green"}')[0]?.instead).toMatch(/"maxIncrease" needs \{\{side\}\}/);
  });

  it('has room for so many windows only as the history has', () => {
    const times = Array.from({ length: 25 }, (_, i) => `daily 00:00-0${i % 10}:30`);
    expect(findings({ ...base, windows: { migrate: times } })[0]).toMatchObject({ place: 'windows.migrate' });
  });

  it('gives all findings at once', () => {
    expect(findings({}).map(({ place }) => place)).toEqual(['name', 'blue', 'green']);
  });

  it.each([null, 'plan', 1, []])('%j is not a plan', (plan) => {
    expect(findings(plan)[0]).toMatchObject({ rule: 'invalid-value', place: 'plan' });
  });

  it('never shows an address with a password in it', () => {
    const found = findings({ ...base, blue: { connection: 'postgres://u:secret@host/db' } });
    expect(found[0]).toMatchObject({ place: 'blue.connection', instead: expect.stringContaining('not an address') });
    expect(JSON.stringify(found)).not.toContain('secret');
  });

  it('is told to people in five lines', () => {
    const [first] = findings({ ...base, standby: { for: 'x' } });
    expect(
      first &&
        formatFinding(first)
          .split('\n')
          .map((line) => line.trim().split(/\s+/)[0]),
    ).toEqual(['error:', 'place', 'what', 'why', 'instead']);
  });
});

describe('a plan of the right form', () => {
  it('has every default filled in', () => {
    expect(parsePlan(base)).toMatchObject({
      plan: {
        version: 1,
        tables: { include: ['*.*'] },
        migrations: [],
        standby: { for: '48h' },
        promote: { attempts: 5 },
      },
    });
  });
});

describe('how many indexes are built at once', () => {
  const read = (indexes: unknown): object | undefined => {
    const parsed = parsePlan({ ...base, indexes });
    return 'plan' in parsed ? parsed.plan.indexes : undefined;
  };

  it.each([
    [{}, { parallel: 2, parallelOffline: 4 }],
    [{ parallel: 1 }, { parallel: 1, parallelOffline: 1 }],
    [{ parallel: 8 }, { parallel: 8, parallelOffline: 8 }],
    [{ parallelOffline: 3 }, { parallel: 2, parallelOffline: 3 }],
    [
      { parallel: 1, parallelOffline: 6 },
      { parallel: 1, parallelOffline: 6 },
    ],
  ])('%j: a number that is named is a limit also while nobody uses green', (written, expected) => {
    const indexes = read(written);
    expect(indexes).toMatchObject(expected);
    expect(read(indexes)).toEqual(indexes);
  });

  it('is taken as named in a plan that an older worker has parsed', () => {
    const indexes = { parallel: 2, maxBlocking: '2s' };
    expect(indexSettings({ indexes })).toEqual({ parallel: 2, parallelOffline: 2, maxBlockingMs: 2_000 });
  });

  it.each([
    [{ paralel: 1 }, { rule: 'unknown-field', place: 'indexes.paralel', instead: 'write "parallel"' }],
    [{ parallel: 0 }, { rule: 'invalid-value', place: 'indexes.parallel' }],
  ])('%j is refused like any other setting', (indexes, expected) => {
    expect(findings({ ...base, indexes })).toMatchObject([expected]);
  });
});
