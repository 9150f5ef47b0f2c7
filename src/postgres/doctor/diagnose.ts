import { otherSide, type Side } from '../../side.js';
import type { Liveness } from './liveness.js';
import { isAway, type Found, type Inventory } from './inventory.js';
import { areTriggersNeeded } from './plan-cleaning.js';
import type { Verdict } from './who-is-primary.js';
import { finishRelease, hasBeenPrimary, isClosed, isReleased } from './who-is-primary.js';

/** Something that is not as it should be, and what to do about it. */
export interface Finding {
  /** `problem`: something is wrong; `leftover`: nothing needs it any more; `note`: good to know. */
  readonly severity: 'problem' | 'leftover' | 'note';
  readonly side: Side | null;
  readonly what: string;
  readonly next: string;
}

/** What is wrong, in plain words. Pure. */
export function diagnose(found: Found, verdict: Verdict, liveness: Liveness): Finding[] {
  const sides = (['blue', 'green'] as const).map((side) => found[side]);
  return [
    ...sides.flatMap((side): Finding[] =>
      !side.reached && isAway(side)
        ? [{ severity: 'problem', side: side.side, what: `can't be reached: ${side.why}`, next: AWAY }]
        : [],
    ),
    ...verdictFinding(verdict),
    ...ownersDiffer(found),
    ...sides.flatMap((side) => (side.reached ? sideFindings(side.inventory, found, verdict, liveness) : [])),
  ];
}

const AWAY = 'bring it back; what is said below is about the other side only';
const CLEAN = 'verdigris doctor --clean shows what it would remove; with --yes it does';

const WAY_BACK_LOST = `while the run lives, stay on green (\`retire\`), or accept the loss (\`rollback\` with "acceptLoss"); once it is over: ${CLEAN}`;

function verdictFinding(verdict: Verdict): Finding[] {
  if (verdict.kind === 'certain') return [];
  const isCalm = verdict.kind === 'unknown' && verdict.isCalm === true;
  return [{ severity: isCalm ? 'note' : 'problem', side: null, what: verdict.why, next: verdict.next }];
}

function ownersDiffer({ blue, green }: Found): Finding[] {
  if (!blue.reached || !green.reached) return [];
  const [one, two] = [blue.inventory.owner, green.inventory.owner];
  if (one === null || two === null || one.migration !== two.migration || one.runId === two.runId) return [];
  const what = `blue belongs to run ${one.runId} and green to run ${two.runId} of "${one.migration}"`;
  const next = 'a start that died half way leaves this: let the later run go on, or end it, then clean up';
  return [{ severity: 'problem', side: null, what, next }];
}

function sideFindings(inventory: Inventory, found: Found, verdict: Verdict, liveness: Liveness): Finding[] {
  return [
    ...lockFindings(inventory),
    ...replicationFindings(inventory, found, verdict),
    ...fenceFindings(inventory, verdict),
    ...buildFindings(inventory),
    ...(liveness.state === 'over' ? leftoverFindings(inventory, whyTriggersStay(inventory, verdict)) : []),
  ];
}

function lockFindings({ side, lockHolders }: Inventory): Finding[] {
  return lockHolders.map(({ lock, pid, who }) => ({
    severity: 'problem',
    side,
    what:
      lock === 'fence'
        ? `pid ${pid} (${who}) holds the fence's lock alone and is no worker: where the fence is armed each write of the application waits for it`
        : `pid ${pid} (${who}) holds the lock of whoever acts for a run and is no worker: nothing can be claimed, promoted or undone`,
    next: `end it, as its own user or a superuser: SELECT pg_terminate_backend(${pid})`,
  }));
}

function replicationFindings({ side, slots, subscriptions }: Inventory, found: Found, verdict: Verdict): Finding[] {
  const other = found[otherSide(side)];
  const subscribed = new Set(other.reached ? other.inventory.subscriptions.map(({ name }) => name) : []);
  const findings: Finding[] = [];
  for (const slot of slots) {
    if (slot.walStatus === 'lost') {
      const next = `its feed can't go on: ${side === 'green' ? WAY_BACK_LOST : 'roll the run back, or clean up'}`;
      findings.push({ severity: 'problem', side, what: `slot ${slot.name} has lost WAL that it needs`, next });
    } else if (other.reached && slot.origin === 'run' && !slot.active && !subscribed.has(slot.name)) {
      const what = `slot ${slot.name} has no subscriber and holds back ${formatBytes(slot.retainedBytes)} of WAL`;
      findings.push({ severity: 'problem', side, what, next: `a run that lives uses it or drops it; else ${CLEAN}` });
    }
  }
  const isFollowing = side === 'blue' && verdict.kind === 'certain' && verdict.primary === 'green';
  for (const { name, enabled, workers, errors } of subscriptions) {
    const next = `see the server log of ${side}; the feed stands still until the cause is gone`;
    if (enabled && workers === 0) {
      findings.push({
        severity: 'problem',
        side,
        what: `subscription ${name} is enabled, and no worker of it runs`,
        next,
      });
    } else if (!enabled && isFollowing) {
      const what = `subscription ${name} is disabled, so blue does not get what is written on green`;
      const enable = `while the run lives: ALTER SUBSCRIPTION "${name}" ENABLE on blue; once it is over: ${CLEAN}`;
      findings.push({ severity: 'problem', side, what, next: enable });
    } else if (errors > 0) {
      findings.push({ severity: 'note', side, what: `subscription ${name} has met ${errors} errors so far`, next });
    }
  }
  return findings;
}

function fenceFindings(inventory: Inventory, verdict: Verdict): Finding[] {
  const { side, fence, fenceOpen, route } = inventory;
  const findings: Finding[] = [];
  const broken = fence.filter(({ state }) => state !== 'armed' && state !== 'absent');
  const armed = fence.filter(({ state }) => state === 'armed');
  const absent = fence.filter(({ state }) => state === 'absent');
  if (fenceOpen === false && broken.length > 0) {
    const what = `the fence is closed, but not in force on ${list(broken.map(({ table }) => table))}`;
    findings.push({
      severity: 'problem',
      side,
      what,
      next: isReleased(inventory)
        ? `its release by name was not finished: ${finishRelease(inventory)}`
        : 'somebody has disabled or dropped its triggers: arm them again',
    });
  }
  if (armed.length > 0 && absent.length > 0) {
    const what = `no fence on ${list(absent.map(({ table }) => table))}`;
    const next = 'right for tables that the plan leaves out; any other is new: the promotion refuses it';
    findings.push({ severity: 'note', side, what, next });
  }
  if (verdict.kind === 'certain' && verdict.primary !== side && isClosed(inventory)) {
    const what = `closed: writes belong to ${verdict.primary}`;
    findings.push({ severity: 'note', side, what, next: 'nothing: it is meant to be so' });
  }
  if (route !== null && route.opening !== null) {
    const what = `a promotion to ${route.opening} was announced and has not been decided or withdrawn`;
    findings.push({ severity: 'note', side, what, next: 'nothing while the run lives; it changes nothing by itself' });
  }
  return findings;
}

function buildFindings({ side, invalidIndexes }: Inventory): Finding[] {
  return invalidIndexes
    .filter(({ building }) => !building)
    .map(({ schema, name, table, ours }) => ({
      severity: 'problem',
      side,
      what: `index ${schema}.${name} of ${table} is INVALID: ${ours ? 'a build of the run was broken off' : 'not by this run, as far as it is written down'}`,
      next: ours ? 'a run that goes on builds it again; else it is cleaned up' : 'DROP INDEX CONCURRENTLY, or REINDEX',
    }));
}

/** A green that had the writes and was rolled back is kept as it was then, closed: it may hold values that blue can't. */
function isKeptGreen(inventory: Inventory, verdict: Verdict): boolean {
  const { side, owner } = inventory;
  if (side !== 'green' || owner?.outcome !== 'rolledBack' || !isClosed(inventory)) return false;
  return verdict.kind === 'certain' && verdict.primary === 'blue' && hasBeenPrimary(inventory, verdict.epoch ?? 0);
}

/** Why cleaning would leave the up/down triggers of a run that is over where they are; null where it drops them. */
function whyTriggersStay(inventory: Inventory, verdict: Verdict): Pick<Finding, 'what' | 'next'> | null {
  if (isKeptGreen(inventory, verdict)) {
    return {
      what: 'kept with the green of a run that was rolled back, which has had the writes',
      next: 'nothing: they go with what is there, when nobody needs it',
    };
  }
  if (!areTriggersNeeded(inventory, verdict)) return null;
  return {
    what: `kept, since they alone fill NOT NULL columns where code leaves them out (${list(inventory.onlyFilled)})`,
    next: `when all code writes these: verdigris doctor --clean --yes --drop-triggers ${inventory.owner?.migration ?? 'NAME'}`,
  };
}

/** What nothing needs when the run is over. */
function leftoverFindings(inventory: Inventory, kept: Pick<Finding, 'what' | 'next'> | null): Finding[] {
  const { side, owner, subscriptions, slots, publications, upDown, eventTriggers, proofs, sessions } = inventory;
  const triggers = upDown.map((table) => `up/down trigger of ${table}`);
  const left = [
    ...subscriptions.map(({ name }) => `subscription ${name}`),
    ...slots.map(({ name }) => `slot ${name}`),
    ...publications.map(({ name }) => `publication ${name}`),
    ...(kept === null ? triggers : []),
    ...eventTriggers.map((name) => `event trigger ${name}`),
    ...proofs.map(({ name, schema, table }) => `constraint ${name} of ${schema}.${table}`),
    ...sessions.map(({ pid, purpose }) => `session ${pid} (${purpose})`),
  ];
  const findings: Finding[] = [];
  if (kept !== null && triggers.length > 0) {
    findings.push({ severity: 'note', side, what: `${kept.what}: ${list(triggers)}`, next: kept.next });
  }
  if (left.length > 0) {
    findings.push({ severity: 'leftover', side, what: `left by a run that is over: ${list(left)}`, next: CLEAN });
  }
  if (owner !== null && owner.outcome === null) {
    const what = `run ${owner.runId} of "${owner.migration}" is over and still owns the database: no other run may begin`;
    findings.push({ severity: 'leftover', side, what, next: CLEAN });
  }
  return findings;
}

function list(items: readonly string[], most = 8): string {
  const more = items.length - most;
  return `${items.slice(0, most).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

/** Bytes for people: `12 kB`, `3.4 GB`. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ''}`;
}
