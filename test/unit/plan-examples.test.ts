import { readFileSync, readdirSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { shortPlan } from '../../src/embedded/demo-plan.js';
import { planJsonSchema } from '../../src/plan/json-schema.js';
import { lintPlan } from '../../src/plan/lint.js';
import { parsePlan } from '../../src/plan/parse.js';
import type { PlanInput } from '../../src/plan/schema.js';

const root = new URL('../../', import.meta.url);
const read = (path: string): unknown => JSON.parse(readFileSync(new URL(path, root), 'utf8'));
const examples = readdirSync(new URL('examples', root), { recursive: true, encoding: 'utf8' }).filter((name) =>
  name.endsWith('.json'),
);
const validate = new Ajv2020({ allErrors: true }).compile(planJsonSchema());

describe('plan.schema.json', () => {
  it('is what the code says: else run npm run plan-schema', () => {
    expect(read('plan.schema.json')).toEqual(planJsonSchema());
  });

  it.each([
    [{ name: 'a', blue: { connection: 'a' } }, 'green'],
    [{ name: 'a', blue: { connection: 'a' }, green: { connection: 'b' }, migratons: [] }, 'migratons'],
    [{ name: 'A', blue: { connection: 'a' }, green: { connection: 'b' } }, '/name'],
    [
      {
        name: 'a',
        blue: { connection: 'a' },
        green: { connection: 'b' },
        migrations: [{ addConstraint: { table: 't', name: 'c' } }],
      },
      '/migrations/0',
    ],
  ])('refuses %j', (plan, what) => {
    expect(validate(plan)).toBe(false);
    expect(JSON.stringify(validate.errors)).toContain(what);
  });
});

describe('the examples', () => {
  it('begin with the plan of the seed and are described', () => {
    const readme = readFileSync(new URL('examples/README.md', root), 'utf8');
    expect(examples).toContain('seed.json');
    expect(examples.filter((name) => !readme.includes(`(${name})`))).toEqual([]);
  });

  it.each(examples)('%s has the form of the JSON Schema', (name) => {
    expect(validate(read(`examples/${name}`)), JSON.stringify(validate.errors, null, 2)).toBe(true);
  });

  it.each(examples)('%s passes the lint without a finding', async (name) => {
    const parsed = parsePlan(read(`examples/${name}`));
    if (!('plan' in parsed)) throw new Error(JSON.stringify(parsed.findings, null, 2));
    expect(await lintPlan(parsed.plan)).toEqual([]);
  });

  it('have their form named for editors', () => {
    const depth = (name: string): number => name.split('/').length;
    const schemas = examples.map((name) => [name, (read(`examples/${name}`) as { $schema?: string }).$schema]);
    expect(schemas).toEqual(examples.map((name) => [name, `${'../'.repeat(depth(name))}plan.schema.json`]));
  });

  it('grant to the application what raw SQL makes: nobody else could', () => {
    for (const name of examples) {
      const { migrations = [] } = read(`examples/${name}`) as PlanInput;
      for (const step of migrations) {
        if (!('sql' in step)) continue;
        const made = [...step.sql.up.matchAll(/CREATE (?:TABLE|VIEW) (\S+)/g)].map(([, object = '']) => object);
        expect(made.filter((object) => !step.sql.up.includes(`ON ${object} TO `))).toEqual([]);
      }
    }
  });

  it('07-short-stages.json is what npm run dev shows, and what docker-compose.yml starts, at the rate of its shop', () => {
    const compose = readFileSync(new URL('docker-compose.yml', root), 'utf8');
    expect(/--input-file \/plans\/(\S+)/.exec(compose)?.[1]).toBe('07-short-stages.json');
    const rate = Number(/SHOP_RATE:-(\d+)/.exec(compose)?.[1]);
    const shown = shortPlan({ stage: '30s', standby: '1h', rate });
    expect(read('examples/07-short-stages.json')).toEqual({ ...shown, $schema: '../plan.schema.json' });
    expect(compose).toContain(`SHOP_MIGRATION:-${shown.name}}`);
  });

  it('seed.json is the migration of the seed: columns, type, five indexes, stages, gates, standby window', () => {
    const parsed = parsePlan(read('examples/seed.json'));
    if (!('plan' in parsed)) throw new Error('seed.json is not a plan');
    const { migrations, traffic, standby } = parsed.plan;
    expect(migrations.filter((m) => 'addColumn' in m)).toHaveLength(3);
    expect(migrations.filter((m) => 'changeType' in m)).toHaveLength(1);
    expect(migrations.filter((m) => 'createIndex' in m)).toHaveLength(5);
    expect(traffic.stages.map(({ percent }) => percent)).toEqual([1, 10, 50, 100]);
    expect(standby.for).toBe('48h');
    // All of its traffic settings are the defaults.
    const minimal = parsePlan({ name: 'a', blue: { connection: 'a' }, green: { connection: 'b' } });
    expect('plan' in minimal && minimal.plan.traffic).toEqual(traffic);
  });
});
