import { readFileSync, readdirSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { planJsonSchema } from '../../src/plan/json-schema.js';
import { lintPlan } from '../../src/plan/lint.js';
import { parsePlan } from '../../src/plan/parse.js';

const root = new URL('../../', import.meta.url);
const read = (path: string): unknown => JSON.parse(readFileSync(new URL(path, root), 'utf8'));
const examples = readdirSync(new URL('examples', root)).filter((name) => name.endsWith('.json'));
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
