import { describe, expect, it } from 'vitest';
import { RULES } from '../../src/plan/rules/index.js';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import { countLaterSteps } from '../../src/plan/steps.js';
import { planWork } from '../../src/postgres/migrate/plan-work.js';
import { COLUMN_CASES } from '../support/lint-cases/columns.js';
import { EXPRESSION_CASES } from '../support/lint-cases/expressions.js';
import { GATE_CASES } from '../support/lint-cases/gates.js';
import { NAME_CASES } from '../support/lint-cases/names.js';
import { SQL_CASES } from '../support/lint-cases/sql.js';
import { TRAFFIC_CASES } from '../support/lint-cases/traffic.js';
import { type Case, add, asking, change, check, index, longSql, sql, VIEW } from '../support/lint-cases/parts.js';
import { lint, planWith } from './lint-plan.js';

const CASES: readonly Case[] = [
  ...COLUMN_CASES,
  ...EXPRESSION_CASES,
  ...GATE_CASES,
  ...NAME_CASES,
  ...SQL_CASES,
  ...TRAFFIC_CASES,
];

const partsOf = (what: Case['refused']): Partial<PlanInput> => (Array.isArray(what) ? { migrations: what } : what);

describe.each(CASES)('$rule at $place: $message', (example) => {
  it('is refused with rule, place, why and what to write instead', async () => {
    const findings = await lint(partsOf(example.refused));
    const finding = findings.find(({ rule, place }) => rule === example.rule && place === example.place);
    expect(finding, JSON.stringify(findings, null, 2)).toMatchObject({
      severity: example.severity ?? 'error',
      message: expect.stringMatching(example.message) as string,
      why: RULES.find(({ name }) => name === example.rule)?.why,
      instead: expect.stringMatching(example.instead) as string,
    });
  });

  it('is not said of the plan that does it right', async () => {
    expect((await lint(partsOf(example.accepted))).filter(({ rule }) => rule === example.rule)).toEqual([]);
  });
});

describe('a gate on counts', () => {
  const fixed = async (query: string, requests: string): Promise<string[]> =>
    (await lint(asking(query, requests))).map(({ rule, place }) => `${rule} ${place}`);
  const [query, requests] = ['traffic.gates[0].query', 'traffic.gates[0].requests'].map(
    (place) => `counts-of-fixed-range ${place}`,
  );

  it.each([
    ['increase over minutes', 'sum(increase(failed[5m]))', 'sum(increase(served[5m]))', [query, requests]],
    ['a rate', 'failed', 'sum(rate(served{path="(a"}[1m]))', [requests]],
    ['a range of seconds', 'failed', 'increase(served[300])', [requests]],
    ['a subquery that slides', 'failed', 'sum_over_time(served[1h:1m])', [requests]],
    ['a bare range', 'failed', 'served[5m]', [requests]],
  ])('can never decide by %s, and is refused', async (_what, failed, served, found) => {
    expect(await fixed(failed, served)).toEqual(found);
  });

  it.each([
    ['counters as they are', 'sum(failed{code=~"[5m]"}) # [5m]', "sum(served{by='[5m]'})"],
    ['the stage', 'sum(increase(failed[{{window}}])) or vector(0)', 'sum(increase(served[ {{ window }} ]))'],
    ['counters that are scraped seldom', 'last_over_time(failed[10m])', 'sum by (a) (max_over_time(served[10m]))'],
    ['what is added up over the stage', 'failed', 'sum_over_time(sum(increase(served[1m]))[{{window}}:1m])'],
  ])('is fine with %s', async (_what, failed, served) => {
    expect(await fixed(failed, served)).toEqual([]);
  });
});

describe('a gate on counts of a recording rule', () => {
  const warned = async (query: string): Promise<boolean> =>
    (await lint(asking('failed', query))).some(({ rule }) => rule === 'counts-recorded-over-range');

  it.each(['job:requests:rate5m', 'sum(path:requests:sum_irate1m)', 'a:b:delta90s + c'])(
    'is warned of %s',
    async (query) => {
      expect(await warned(query)).toBe(true);
    },
  );

  it.each([
    'job:requests:total',
    'sum(rate5m)',
    'increase(job:requests:sum[{{window}}])',
    'sum_over_time(job:requests:increase1m[{{window}}:1m])',
  ])('is fine with %s', async (query) => {
    expect(await warned(query)).toBe(false);
  });

  it('is fine where the number itself is judged', async () => {
    const findings = await lint(asking('sum(job:errors:rate5m) / sum(job:requests:rate5m)'));
    expect(findings.map(({ rule }) => rule)).not.toContain('counts-recorded-over-range');
  });
});

describe('a gate on a number', () => {
  it.each([
    ['the last minutes', 'sum(rate(failed[2m])) or vector(0)', []],
    ['a range of a series, which is asked over the last minutes too', 'rate(failed[1h])', []],
    ['a range where something else answers', 'sum(rate(failed[5m])) or vector(0)', ['range-hides-the-end']],
    ['the stage where something else answers', 'sum(increase(a[{{window}}])) or vector(0)', ['range-hides-the-end']],
    ['a subquery over the stage', 'max_over_time(failed[{{window}}:1m])', []],
  ])('over %s', async (_what, query, rules) => {
    expect((await lint(asking(query))).map(({ rule }) => rule)).toEqual(rules);
  });
});

describe('the lint', () => {
  it('has a case for every rule, here or where squawk is missing', () => {
    const shown = new Set([...CASES.map(({ rule }) => rule), 'squawk-missing']);
    expect(RULES.map(({ name }) => name).filter((name) => !shown.has(name))).toEqual([]);
  });

  it('says so when this platform has no squawk, and goes on without it', async () => {
    const platform = Object.getOwnPropertyDescriptor(process, 'platform');
    Object.defineProperty(process, 'platform', { ...platform, value: 'sunos' });
    try {
      expect(await lint({ migrations: [sql('REINDEX TABLE public.orders')] })).toMatchObject([
        { rule: 'squawk-missing', severity: 'warning', message: expect.stringContaining('sunos') as string },
      ]);
      expect(await lint({ migrations: [add()] })).toEqual([]);
    } finally {
      Object.defineProperty(process, 'platform', platform ?? {});
    }
  });

  it('says of a column in raw SQL that what is written into it on green has no way back', async () => {
    const [found] = await lint({ migrations: [sql('ALTER TABLE public.orders ADD COLUMN x integer')] });
    expect(found).toMatchObject({
      rule: 'column-in-raw-sql',
      message: expect.stringContaining(
        'to public.orders: what the application writes into it on green has no way',
      ) as string,
      why: expect.stringContaining(
        'once green serves the feed to blue leaves it out, and a rollback goes on',
      ) as string,
      instead: expect.stringContaining('with a "down", what is written into it comes back') as string,
    });
  });

  it('puts errors before warnings and keeps every finding', async () => {
    const findings = await lint({
      migrations: [
        add({ default: 'now()' }),
        sql('DO $$ BEGIN END $$'),
        sql('DROP TABLE public.a; DROP TABLE public.b', VIEW, 'x'),
      ],
    });
    expect(findings.map(({ rule }) => rule)).toEqual([
      'drop-or-rename',
      'drop-or-rename',
      'time-default',
      'opaque-sql',
    ]);
  });

  it('never fails on SQL that it does not expect', async () => {
    const odd = ['', ';', '\0', '(', `'`, '$$', '/*', '1e', 'é'.repeat(5000), '('.repeat(200), 'SELECT'];
    for (const text of odd.filter((t) => t !== '')) {
      const findings = await lint({
        migrations: [
          add({ up: text, down: text, default: text, type: text }),
          index({ columns: [text] }),
          sql(text, text),
        ],
      });
      expect(findings.length).toBeGreaterThan(0);
    }
  });
});

it('counts the steps as they are done', async () => {
  const migrations = [
    ...[add(), index({ name: 'a' }), add({ column: 'b', notNull: true, up: `''` }), index({ name: 'b' }), change()],
    ...[index({ name: 'c' }), check(), change({ newColumn: 'd', notNull: true }), index({ name: 'd' })],
    ...[longSql(1), longSql(1), index({ name: 'e' }), { setNotNull: { table: 'orders', column: 'note', up: `''` } }],
  ];
  for (let length = 0; length <= migrations.length; length++) {
    const { migrations: steps } = planSchema.parse(planWith({ migrations: migrations.slice(0, length) }));
    expect(countLaterSteps({ migrations: steps })).toBe((await planWork({ migrations: steps })).steps.length);
  }
});
