import { formatBytes, type Finding } from '../postgres/doctor/diagnose.js';
import { isAway, type Found, type Inventory, type SideFound } from '../postgres/doctor/inventory.js';
import type { PoolerFound } from '../pgbouncer/examine.js';
import type { Liveness } from '../postgres/doctor/liveness.js';
import { describeAction, type CleanPlan, type Kept } from '../postgres/doctor/plan-cleaning.js';
import type { Verdict } from '../postgres/doctor/who-is-primary.js';

/* What the doctor says to people. */

/** The whole examination: who is primary, what each side holds, what is wrong and what to do. */
export function renderExamination(
  found: Found,
  verdict: Verdict,
  liveness: Liveness,
  findings: readonly Finding[],
  poolers: readonly PoolerFound[] = [],
): string {
  return [
    renderVerdict(verdict),
    `run      ${LIVENESS[liveness.state]}: ${liveness.why}`,
    '',
    ...renderSide(found.blue),
    '',
    ...renderSide(found.green),
    '',
    ...poolers.map(renderPooler),
    ...(poolers.length === 0 ? [] : ['']),
    ...renderFindings(findings),
  ].join('\n');
}

function renderPooler(pooler: PoolerFound): string {
  const name = `PgBouncer ${pooler.connection}`;
  if (!pooler.reached) return `${name} (out of reach: ${pooler.why})`;
  const { leadsTo, knownEntries, paused, pausedAsAWhole, quiet, marks } = pooler;
  const where = leadsTo === null ? (knownEntries ? ['leads to neither side'] : []) : [`leads to ${leadsTo}`];
  const entries = paused.length === 0 ? [] : [`PAUSED: ${paused.join(', ')}`];
  const held = [...(pausedAsAWhole ? ['PAUSED AS A WHOLE'] : []), ...entries];
  const settings = quiet === null ? [] : [`settings of a pause (${quiet})`];
  const said = marks.map(({ entry, epoch, side, state }) => `mark ${entry}: epoch ${epoch}, ${side}, ${state}`);
  return `${name}: ${[...where, ...(held.length === 0 ? ['not paused'] : held), ...settings, ...(said.length === 0 ? ['no mark of a run'] : said)].join('; ')}`;
}

const LIVENESS: Readonly<Record<Liveness['state'], string>> = {
  lives: 'lives',
  over: 'is over',
  unknown: 'counts as living',
};

export function renderVerdict(verdict: Verdict): string {
  switch (verdict.kind) {
    case 'certain':
      return `primary  ${verdict.primary}${verdict.epoch === null ? '' : `, epoch ${verdict.epoch}`}: ${verdict.why}`;
    case 'nobody':
      return `primary  nobody: ${verdict.why}\n         next step: ${verdict.next}`;
    case 'both':
      return `primary  ${verdict.truth}, but both sides take writes: ${verdict.why}\n         next step: ${verdict.next}`;
    case 'unknown':
      return `primary  ${verdict.noRun === true ? 'not for Verdigris to say' : 'not certain'}: ${verdict.why}\n         next step: ${verdict.next}`;
  }
}

function renderSide(found: SideFound): string[] {
  if (!found.reached) {
    return [`${found.side} (${isAway(found) ? `out of reach: ${found.why}` : found.why})`];
  }
  const lines = objectLines(found.inventory);
  const { side, version } = found.inventory;
  return [`${side} (PostgreSQL ${version})${lines.length === 0 ? ': nothing of Verdigris' : ''}`, ...lines];
}

function objectLines(inventory: Inventory): string[] {
  const { owner, route, schema } = inventory;
  return [
    ...(owner === null
      ? []
      : [
          row(
            'owner',
            `migration "${owner.migration}", run ${owner.runId}, claimed ${owner.claimedAt}, ${endOf(owner)}`,
          ),
        ]),
    ...(schema && owner === null ? [row('schema', 'verdigris, without an owner')] : []),
    ...(route === null
      ? []
      : [
          row(
            'route',
            `writes on ${route.writesOn}, epoch ${route.epoch}, generation ${route.generation}, ${route.greenReadPercent} % of reads on green${route.opening === null ? '' : `, about to open ${route.opening}`}`,
          ),
        ]),
    ...fenceLine(inventory),
    ...inventory.routers.map((one) =>
      row(
        'router',
        `${one.instance}, epoch ${one.epoch}, last heard of ${one.secondsAgo} s ago${one.from === null ? '' : `, by ${one.from}`}`,
      ),
    ),
    ...inventory.publications.map(({ name, tables }) => row('publication', `${name}, ${tables} tables`)),
    ...inventory.slots.map((slot) =>
      row(
        'slot',
        `${slot.name}, ${slot.active ? 'active' : 'inactive'}, holds back ${formatBytes(slot.retainedBytes)} of WAL (${slot.walStatus ?? 'no status'})${slot.origin === 'tablesync' ? ', of a table synchronization' : ''}`,
      ),
    ),
    ...inventory.subscriptions.map((one) =>
      row(
        'subscription',
        `${one.name}, ${one.enabled ? 'enabled' : 'disabled'}, ${one.workers} workers, ${one.tables - one.tablesNotReady} of ${one.tables} tables ready, ${one.errors} errors`,
      ),
    ),
    ...inventory.origins.map((one) => row('origin', `${one.name} of ${one.subscription}, at ${one.position}`)),
    ...inventory.upDown.map((table) => row('trigger', `up/down on ${table}`)),
    ...inventory.eventTriggers.map((name) => row('event trigger', name)),
    ...inventory.invalidIndexes.map((one) =>
      row(
        'index',
        `${one.schema}.${one.name} of ${one.table}, ${one.building ? 'being built' : 'INVALID'}${one.ours ? '' : ', not by this run'}`,
      ),
    ),
    ...inventory.proofs.map(({ schema, table, name }) => row('constraint', `${name} of ${schema}.${table}`)),
    ...(inventory.copied === 0 ? [] : [row('copy', `${inventory.copied} objects made by the run's schema copy`)]),
    ...inventory.sessions.map((one) =>
      row('session', `pid ${one.pid}, ${one.purpose}, ${one.state ?? 'no state'}, ${one.seconds} s old`),
    ),
    ...inventory.events.slice(0, 3).map(({ at, what }) => row('event', `${at.slice(0, 19)} ${what}`)),
  ];
}

function endOf({ outcome, endedAt }: NonNullable<Inventory['owner']>): string {
  return outcome === null ? 'no end written down' : `ended ${endedAt ?? ''}: ${outcome}`;
}

function fenceLine({ fenceOpen, fence }: Inventory): string[] {
  const counts = (['armed', 'disabled', 'partial', 'lost', 'absent'] as const).flatMap((state) => {
    const tables = fence.filter((one) => one.state === state);
    if (tables.length === 0) return [];
    const names = tables.length <= 5 ? ` (${tables.map(({ table }) => table).join(', ')})` : '';
    return [`${state === 'absent' ? 'missing' : state} on ${tables.length}${names}`];
  });
  const hasFence = fence.some(({ state }) => state !== 'absent');
  if (fenceOpen === null && !hasFence) return [];
  const flag = fenceOpen === null ? 'without a flag' : fenceOpen ? 'open' : 'closed';
  return [row('fence', [flag, ...counts].join(', '))];
}

function row(kind: string, text: string): string {
  return `  ${kind.padEnd(14)}${text}`;
}

export function renderFindings(findings: readonly Finding[]): string[] {
  if (findings.length === 0) return ['nothing is wrong'];
  return findings.map(
    ({ severity, side, what, next }) =>
      `${severity.padEnd(9)}${side === null ? '' : `${side}: `}${what}\n         next step: ${next}`,
  );
}

/**
 * What a cleaning would do, or why it is refused.
 *
 * @param flagsFile the file for flagd that is written first
 */
export function renderCleanPlan(plan: CleanPlan, flagsFile?: string): string {
  if (plan.refused) return `refused: ${plan.why}\nnext step: ${plan.next}`;
  return [
    ...(plan.actions.length === 0 ? ['nothing is left that has to go'] : ['would be done, in this order:']),
    ...(flagsFile === undefined ? [] : [`  write the file for flagd, ${flagsFile}: everybody where writes are`]),
    ...plan.actions.map((action) => `  ${describeAction(action)}`),
    ...renderKept(plan.kept),
  ].join('\n');
}

export function renderKept(kept: readonly Kept[]): string[] {
  if (kept.length === 0) return [];
  return ['stays:', ...kept.map(({ side, what, why }) => `  ${side}: ${what}: ${why}`)];
}
