import { readFileSync, readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { DURATION_PATTERN } from '../../src/plan/duration.js';
import { planJsonSchema } from '../../src/plan/json-schema.js';
import { lintPlan } from '../../src/plan/lint.js';
import { parsePlan } from '../../src/plan/parse.js';
import { planSchema } from '../../src/plan/schema.js';

const text = readFileSync(new URL('../../docs/plan.md', import.meta.url), 'utf8');
const blocks = [...text.matchAll(/```json\n([\s\S]*?)```/g)].map(([, json]): unknown => JSON.parse(json ?? ''));
const base = { name: 'docs', blue: { connection: 'a' }, green: { connection: 'b' } };
const OPERATIONS = ['addColumn', 'changeType', 'createIndex', 'addConstraint', 'setNotNull', 'sql'];

/** The names of all fields that a plan can have, at any depth. */
function fieldsOf(schema: unknown): string[] {
  if (typeof schema !== 'object' || schema === null) return [];
  if (Array.isArray(schema)) return schema.flatMap(fieldsOf);
  return Object.entries(schema).flatMap(([key, value]: [string, unknown]) =>
    key === 'properties' && typeof value === 'object' && value !== null
      ? [...Object.keys(value), ...Object.values(value).flatMap(fieldsOf)]
      : key === 'default' || key === 'enum'
        ? []
        : fieldsOf(value),
  );
}

interface Bounded {
  readonly properties?: Readonly<Record<string, Bounded>>;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
}

/** Fields with a largest value that is one of ours, and lists with a largest length, each with both ends. */
function boundsOf(schema: Bounded, path: readonly string[] = []): string[] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, field]) => {
    const here = [...path, name];
    const bounds = [field.minimum ?? field.minItems ?? 0, field.maximum ?? field.maxItems] as const;
    const own = bounds[1] !== undefined && bounds[1] < Number.MAX_SAFE_INTEGER;
    return [...(own ? [`${here.join('.')} ${bounds[0]} to ${bounds[1]}`] : []), ...boundsOf(field, here)];
  });
}

/** The fields of the smallest plan that have a duration. */
function durationsOf(plan: object, path: readonly string[] = []): string[] {
  return Object.entries(plan).flatMap(([name, value]: [string, unknown]) => {
    if (typeof value === 'string') return DURATION_PATTERN.test(value) ? [[...path, name].join('.')] : [];
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? durationsOf(value, [...path, name])
      : [];
  });
}

/** The plans, and parts of plans, that the pages show. */
function plansShown(): { readonly page: string; readonly plan: object }[] {
  const fields = Object.keys((planJsonSchema() as { properties: object }).properties);
  const folder = new URL('../../docs/', import.meta.url);
  return readdirSync(folder)
    .filter((name) => name.endsWith('.md'))
    .flatMap((page) =>
      [...readFileSync(new URL(page, folder), 'utf8').matchAll(/```json\n([\s\S]*?)```/g)].flatMap(([, json = '']) => {
        if (json.includes('…')) return [];
        const plan = JSON.parse(json) as object;
        return Object.keys(plan).every((key) => fields.includes(key)) ? [{ page, plan }] : [];
      }),
    );
}

it.each(plansShown())('docs/$page shows a plan that the lint has nothing against: $plan', async ({ plan }) => {
  const parsed = parsePlan({ ...base, ...plan });
  if (!('plan' in parsed)) throw new Error(JSON.stringify(parsed.findings, null, 2));
  expect(await lintPlan(parsed.plan)).toEqual([]);
});

describe('docs/gates.md', () => {
  const gates = readFileSync(new URL('../../docs/gates.md', import.meta.url), 'utf8');
  const smallest: Readonly<Record<string, object>> = {
    ...{ errorRate: { max: 0.1 }, fallbackRate: { max: 0.1 }, mismatchRate: { max: 0.1 }, lag: { max: '1s' } },
    ...{ p50: { max: '1s' }, p95: { max: '1s' }, p99: { max: '1s' }, blockingLocks: {}, conflicts: {} },
    ...{ longTransactions: { max: '1m' }, retainedWal: { max: '1GB' }, transactionVolume: { maxDrop: 0.1 } },
    ...{ rowDifferences: {}, prometheus: { name: 'n', connection: 'c', query: 'q', requests: 'r', max: 0.1 } },
  };

  it('names the gates that take minRequests, and no other', () => {
    const section = /^## minRequests\n\n([^#]*)/m.exec(gates)?.[1] ?? '';
    const taken = Object.keys(smallest).filter((metric) => {
      const gate = { metric, ...smallest[metric] };
      expect(parsePlan({ ...base, traffic: { gates: [gate] } })).toHaveProperty('plan');
      return 'plan' in parsePlan({ ...base, traffic: { gates: [{ ...gate, minRequests: 10 }] } });
    });
    expect(Object.keys(smallest).filter((metric) => section.includes(`\`${metric}\``))).toEqual(taken);
  });
});

describe('docs/plan.md', () => {
  it.each([...new Set(fieldsOf(planJsonSchema()))])('describes the field %s', (field) => {
    expect(text).toMatch(new RegExp(`\`[^\`]*\\b${field.replace('$', '')}\\b[^\`]*\``));
  });

  it.each(blocks)('shows a plan, or a part of one, that is right: %j', (block) => {
    const part = typeof block === 'object' && block !== null ? block : {};
    const isStep = Object.keys(part).some((key) => OPERATIONS.includes(key));
    expect(parsePlan({ ...base, ...(isStep ? { migrations: [part] } : part) })).toHaveProperty('plan');
  });

  it('says the bounds of numbers and the lengths of lists that the code has', () => {
    const section = /^## Bounds of numbers\n([^#]*)/m.exec(text)?.[1] ?? '';
    const told = section.split('\n').flatMap((line) => {
      const [fields = '', from, to] = line.split('|').slice(1, 4);
      return [...fields.matchAll(/`([^`]+)`/g)].map(([, field]) => `${field} ${from?.trim()} to ${to?.trim()}`);
    });
    expect(told.sort()).toEqual(boundsOf(planJsonSchema()).sort());
  });

  it('says the bounds of durations that the code has', () => {
    const section = /^## Bounds of durations\n([^#]*)/m.exec(text)?.[1] ?? '';
    const fields = [...section.matchAll(/`([a-z]+\.[A-Za-z.]+)`/g)].map(([, field = '']) => field);
    expect(fields.filter((field) => durationsOf(planSchema.parse(base)).includes(field)).sort()).toEqual(
      durationsOf(planSchema.parse(base)).sort(),
    );
  });

  it('says the defaults that the code has', () => {
    const parsed = parsePlan(base);
    if (!('plan' in parsed)) throw new Error('the smallest plan is not one');
    const { plan } = parsed;
    for (const value of [
      plan.standby.for,
      plan.promote.maxHold,
      plan.replicate.maxRetainedWal,
      plan.backfill.batch,
      plan.traffic.maxStageDuration,
      plan.traffic.flag,
      plan.bootstrap.method,
      plan.onFailure,
    ]) {
      expect(text).toContain(`\`"${value}"\``);
    }
    expect(text).toContain(`| \`${plan.promote.sequenceGap}\``);
  });
});
