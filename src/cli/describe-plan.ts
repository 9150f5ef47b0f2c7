import type { Migration, Plan } from '../plan/schema.js';
import { shellQuote } from './shell-quote.js';

/*
 * A plan in words: what the Web UI shows of a run from its first second on.
 */

/** Temporal keeps at most 200 bytes of summary, and 20 kB of details. */
const SUMMARY_BYTES = 200;
const STEPS_SHOWN = 60;

/** One line: what moves where. */
export function summaryOf(plan: Plan): string {
  const steps = plan.migrations.length;
  return cutBytes(
    `${plan.blue.connection} to ${plan.green.connection}: ${steps === 0 ? 'same schema' : `${steps} schema ${steps === 1 ? 'step' : 'steps'}`}, reads ${stages(plan)}, standby ${plan.standby.for}`,
    SUMMARY_BYTES,
  );
}

/** Markdown: the steps, the stages, what waits for an approval and how to give it. */
export function detailsOf(plan: Plan, workflowId: string, namespace: string): string {
  const shown = plan.migrations.slice(0, STEPS_SHOWN).map((migration, i) => `${i + 1}. ${stepInWords(migration)}`);
  const more = plan.migrations.length - shown.length;
  return [
    `Moves **${plan.blue.connection}** (blue) to **${plan.green.connection}** (green).`,
    '',
    '### Steps',
    ...(shown.length === 0 ? ['None: green gets the schema of blue.'] : shown),
    ...(more > 0 ? [`… and ${more} more: query \`plan\``] : []),
    '',
    '### Traffic',
    ...plan.traffic.stages.map((stage) => `- ${stage.percent} % of the users read from green, ${stage.for}`),
    `- gates: ${plan.traffic.gates.map(({ metric }) => metric).join(', ')}; one that fails leads to ${plan.traffic.onFail}`,
    ...(plan.traffic.webhooks ?? []).map(
      ({ connection, on }) =>
        `- the webhook ${connection} is called for ${on.join(', ')}, and may refuse what is not a way back`,
    ),
    '',
    '### Approvals',
    ...approvals(plan, workflowId, namespace),
    '',
    `After the promotion blue follows green for ${plan.standby.for}; until then a rollback loses nothing.`,
  ].join('\n');
}

function approvals(plan: Plan, workflowId: string, namespace: string): string[] {
  const gates = plan.traffic.approval.before.map((point) => (typeof point === 'number' ? `stage-${point}` : point));
  if (gates.length === 0) return ['None: the run goes on by itself.'];
  // Another namespace may have a rehearsal of the same name, which waits for the same.
  const where = namespace === 'default' ? '' : ` --namespace ${shellQuote(namespace)}`;
  return [
    `The run waits before: ${gates.join(', ')}. Answer with:`,
    '',
    '```',
    `temporal workflow update execute${where} --workflow-id ${workflowId} --name approve --input '{"gate":"${gates[0] ?? ''}","by":"<you>","reason":"<why>"}'`,
    '```',
  ];
}

function stages(plan: Plan): string {
  const percents = plan.traffic.stages.map(({ percent }) => percent);
  return percents.length === 0 ? 'at once' : `${percents.join('/')} %`;
}

/** One step in words: `add column metadata (jsonb) to transactions`. */
export function stepInWords(migration: Migration): string {
  if ('addColumn' in migration) {
    const { table, column, type, notNull } = migration.addColumn;
    return `add column ${column} (${type}${notNull ? ', NOT NULL after the backfill' : ''}) to ${table}`;
  }
  if ('changeType' in migration) {
    const { table, column, newColumn, type } = migration.changeType;
    return `${table}: ${column} becomes ${newColumn} (${type}), beside the old column`;
  }
  if ('createIndex' in migration) {
    const { table, name, method, columns, unique } = migration.createIndex;
    return `${unique ? 'unique ' : ''}index ${name} on ${table}, ${method} (${columns.join(', ')})`;
  }
  if ('addConstraint' in migration) {
    const { table, name, foreignKey, unique, primaryKey } = migration.addConstraint;
    if (unique !== undefined) return `unique constraint ${name} on ${table} (${unique.join(', ')})`;
    if (primaryKey !== undefined) return `primary key ${name} of ${table} (${primaryKey.join(', ')})`;
    return `${foreignKey === undefined ? 'check' : 'foreign key'} ${name} on ${table}`;
  }
  if ('setNotNull' in migration) return `${migration.setNotNull.table}: ${migration.setNotNull.column} NOT NULL`;
  return `SQL: ${migration.sql.name}`;
}

function cutBytes(text: string, limit: number): string {
  const encoder = new TextEncoder();
  if (encoder.encode(text).length <= limit) return text;
  let cut = text;
  while (encoder.encode(`${cut}…`).length > limit) cut = cut.slice(0, -1);
  return `${cut}…`;
}
