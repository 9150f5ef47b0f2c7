import { z } from 'zod';
import type { Finding } from './finding.js';
import { placeOf } from './finding.js';
import { nearest } from './nearest.js';
import { REPEATED_FIELD } from './repeated-fields.js';
import type { Plan } from './schema.js';
import { planSchema } from './schema.js';
import { fieldOf, fieldsOf, optionMeant, optionNames, schemaAt } from './schema-at.js';

/** A plan that has the right form, with its defaults; or everything that is wrong with its form. */
export type ParsedPlan = { readonly plan: Plan } | { readonly findings: Finding[] };

/**
 * Reads a plan: checks its form and fills in the defaults. What the plan would do is judged by `lintPlan`.
 *
 * @example
 * const parsed = parsePlan(JSON.parse(text));
 * if ('plan' in parsed) console.log(parsed.plan.standby.for);
 */
export function parsePlan(json: unknown): ParsedPlan {
  const result = planSchema.safeParse(json);
  return result.success ? { plan: result.data } : { findings: findingsOf(planSchema, json, result.error.issues, []) };
}

type Path = readonly PropertyKey[];

const WHY = {
  'unknown-field':
    'a field that is not known would be ignored, and the run would not do what its author believes it does',
  'unknown-operation': 'a step that is not understood cannot be done, undone or verified',
  'missing-field': 'there is no default that would be right for every plan',
  'invalid-value': 'the value does not have the form that this field needs',
} as const;

/** The rules that judge the form of a plan. */
export const PARSE_RULES = [REPEATED_FIELD, ...Object.keys(WHY)];

function finding(rule: keyof typeof WHY, path: Path, message: string, instead: string): Finding {
  return { rule, severity: 'error', place: placeOf(path), message, why: WHY[rule], instead };
}

/** `issues` are what `schema` says of `value`, which stands at `base` in the plan. */
function findingsOf(
  schema: z.core.$ZodType,
  value: unknown,
  issues: readonly z.core.$ZodIssue[],
  base: Path,
): Finding[] {
  return issues.flatMap((issue) => {
    const path = [...base, ...issue.path];
    const here = valueAt(value, issue.path);
    const expected = schemaAt(schema, value, issue.path);
    if (issue.code === 'invalid_union' && expected instanceof z.ZodUnion) return unionFindings(expected, here, path);
    if (issue.code === 'unrecognized_keys') {
      const known = fieldsOf(expected instanceof z.ZodUnion ? optionMeant(expected, here) : expected);
      return issue.keys.map((key) => unknownField(key, known, path, isOneStep(path)));
    }
    if (here === undefined) return [missingField(path, expected)];
    return [invalidValue(issue, here, path, expected)];
  });
}

/** A union says that no option fits; people need to hear what is wrong with the option that they meant. */
function unionFindings(union: z.ZodUnion, value: unknown, path: Path): Finding[] {
  const meant = optionMeant(union, value);
  if (meant !== undefined) {
    const result = z.safeParse(meant, value);
    if (!result.success) return findingsOf(meant, value, result.error.issues, path);
  }
  const { by, names } = optionNames(union);
  if (by === 'metric') return [unknownTag('metric', textOf(value, 'metric'), names, path)];
  if (by === 'key') return [unknownOperation(value, names, path)];
  return [
    finding(
      'invalid-value',
      path,
      `${shown(value)} is not one of the points that wait for an approval`,
      'write "traffic", "promote", "retire", or the percent of a stage as a number, such as 10',
    ),
  ];
}

function unknownOperation(value: unknown, names: readonly string[], path: Path): Finding {
  const key = typeof value === 'object' && value !== null ? Object.keys(value)[0] : undefined;
  const near = key === undefined ? undefined : nearest(key, names);
  return finding(
    'unknown-operation',
    path,
    key === undefined ? 'this step names no operation' : `"${key}" is not an operation`,
    near === undefined ? `write { "<operation>": { … } } with one of ${names.join(', ')}` : `write "${near}"`,
  );
}

function unknownTag(field: string, text: string | undefined, names: readonly string[], path: Path): Finding {
  const near = text === undefined ? undefined : nearest(text, names);
  const choice = `one of ${names.join(', ')}`;
  return text === undefined
    ? finding('missing-field', [...path, field], `"${field}" is missing`, `write ${choice}`)
    : finding(
        'invalid-value',
        [...path, field],
        `"${text}" is not a ${field}`,
        near === undefined ? `write ${choice}` : `write "${near}"`,
      );
}

function unknownField(key: string, known: readonly string[], path: Path, step: boolean): Finding {
  if (step) {
    return finding(
      'unknown-operation',
      [...path, key],
      'a step has one operation, and this one has more',
      `make "${key}" a step of its own: { "${known[0] ?? ''}": { … } }, { "${key}": { … } }`,
    );
  }
  const near = nearest(key, known);
  return finding(
    'unknown-field',
    [...path, key],
    `"${key}" is not a field of ${path.length === 0 ? 'a plan' : placeOf(path)}`,
    near === undefined ? `the fields here are ${known.join(', ')}` : `write "${near}"`,
  );
}

function missingField(path: Path, expected: z.core.$ZodType | undefined): Finding {
  const name = String(path.at(-1) ?? 'plan');
  const description = expected instanceof z.ZodType ? expected.description : undefined;
  const example =
    (path.length > 1 ? EXAMPLES_WITHIN[name] : undefined) ??
    EXAMPLES[name] ??
    (expected instanceof z.ZodObject ? `"${name}": { … }` : `"${name}": …`);
  return finding(
    'missing-field',
    path,
    `"${name}" is missing`,
    description === undefined ? `add ${example}` : `add ${example} (${description})`,
  );
}

/** What a required field looks like. */
const EXAMPLES: Readonly<Record<string, string>> = {
  name: '"name": "orders-2026-11"',
  blue: '"blue": { "connection": "orders_blue" }',
  green: '"green": { "connection": "orders_green" }',
  connection: '"connection": "orders_blue"',
  down: '"down": "<what undoes \\"up\\">"',
  up: '"up": "<SQL>"',
  table: '"table": "orders"',
  column: '"column": "status"',
  newColumn: '"newColumn": "status_new"',
  type: '"type": "integer"',
};

/** The same where it is a field of something within the plan: there a name is of an index, a constraint or a metric. */
const EXAMPLES_WITHIN: Readonly<Record<string, string>> = {
  name: '"name": "orders_status_idx"',
};

function invalidValue(
  issue: z.core.$ZodIssue,
  value: unknown,
  path: Path,
  expected: z.core.$ZodType | undefined,
): Finding {
  const instead = insteadOf(issue, value, path, expected);
  return finding('invalid-value', path, `${shown(value)} is not accepted here: ${said(issue)}`, instead);
}

function said(issue: z.core.$ZodIssue): string {
  if (issue.code === 'invalid_type') return `it must be ${withArticle(issue.expected)}`;
  if (issue.code === 'invalid_value') return `it must be ${issue.values.map((v) => JSON.stringify(v)).join(' or ')}`;
  if (issue.code === 'too_small') {
    if (issue.origin !== 'number' && issue.origin !== 'int') return 'it must not be empty';
    return `it must be ${issue.inclusive === true ? 'at least' : 'more than'} ${String(issue.minimum)}`;
  }
  if (issue.code === 'too_big') {
    const unit = issue.origin === 'string' ? ' characters long' : '';
    return `it must be ${issue.inclusive === true ? 'at most' : 'less than'} ${String(issue.maximum)}${unit}`;
  }
  return 'it does not have the right form';
}

function insteadOf(issue: z.core.$ZodIssue, value: unknown, path: Path, expected: z.core.$ZodType | undefined): string {
  const name = String(path.at(-1) ?? 'plan');
  // "1" is near to 1 as a text, and no number.
  if (name === 'version') return 'write "version": 1, the only version that this Verdigris reads';
  if (issue.code === 'invalid_value' && typeof value === 'string') {
    const near = nearest(value, issue.values.map(String));
    if (near !== undefined) return `write "${near}"`;
  }
  const description = expected instanceof z.ZodType ? expected.description : undefined;
  const example = EXAMPLES[name];
  // The schema's own words: "write a number and a unit, such as …".
  if (issue.code === 'custom' || issue.code === 'invalid_format') return issue.message;
  if (issue.code === 'too_small' && !/^Too /.test(issue.message)) return issue.message;
  if (example !== undefined) return `write ${example}`;
  return description ?? `see "${name}" in docs/plan.md`;
}

function withArticle(type: string): string {
  if (type === 'int') return 'a whole number';
  return /^[aeio]/.test(type) ? `an ${type === 'array' ? 'array [ … ]' : type}` : `a ${type}`;
}

/** A value as a message shows it; one that may be an address with a password in it is not shown. */
function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  const text = JSON.stringify(value);
  if (/:\/\/|password|@/i.test(text)) return 'the value (not shown: it looks like an address)';
  return text.length <= 60 ? text : `${text.slice(0, 57)}…`;
}

/** Whether the path leads to one step of `migrations`. */
function isOneStep(path: Path): boolean {
  return path.length === 2 && path[0] === 'migrations';
}

function valueAt(value: unknown, path: Path): unknown {
  return path.reduce<unknown>((here, key) => fieldOf(here, key), value);
}

function textOf(value: unknown, key: string): string | undefined {
  const text = fieldOf(value, key);
  return text === undefined ? undefined : String(text);
}
