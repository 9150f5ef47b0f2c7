import { otherSide, type Side } from '../../side.js';
import type { Found, Inventory, SideFound } from './inventory.js';
import { refuseLiving, type Liveness } from './liveness.js';
import { GREEN_LOST } from './open-blue.js';
import { keptFeeds, mayFeedReaders } from './readers-of-green.js';
import { hasBeenPrimary, isReleased, mixUp, type Verdict } from './who-is-primary.js';

/** What a person has said explicitly, each with the migration's name as confirmation. */
export interface CleanOptions {
  /** Take the fence from a side that has been primary and is not any more. */
  readonly release: Readonly<Partial<Record<Side, string>>>;
  /** Also drop what the run's schema copy has made on green, rows included. */
  readonly dropCopy?: string;
  /** Also drop up/down triggers that the application's writes may need. */
  readonly dropTriggers?: string;
}

export type CleanAction =
  | { readonly kind: 'endSession'; readonly side: Side; readonly pid: number; readonly purpose: string }
  | { readonly kind: 'takeReadsBack'; readonly side: Side; readonly percent: number; readonly epoch: number }
  | { readonly kind: 'dropSubscription'; readonly side: Side; readonly name: string }
  | { readonly kind: 'dropSlot'; readonly side: Side; readonly name: string }
  | { readonly kind: 'dropPublication'; readonly side: Side; readonly name: string }
  | { readonly kind: 'dropIndex'; readonly side: Side; readonly schema: string; readonly name: string }
  | {
      readonly kind: 'dropProof';
      readonly side: Side;
      readonly schema: string;
      readonly table: string;
      readonly name: string;
    }
  | { readonly kind: 'dropEventTrigger'; readonly side: Side; readonly name: string }
  | { readonly kind: 'dropUpDown'; readonly side: Side; readonly tables: number }
  | {
      readonly kind: 'dropFence';
      readonly side: Side;
      readonly tables: number;
      /** By name, from a side that has been primary: that is written down first. */
      readonly released: boolean;
    }
  | { readonly kind: 'dropCopy'; readonly side: Side; readonly objects: number }
  | { readonly kind: 'endOwnership'; readonly side: Side }
  | { readonly kind: 'forgetRun'; readonly side: Side; readonly others: readonly string[] }
  | { readonly kind: 'dropSchema'; readonly side: Side };

/** What stays on purpose. */
export interface Kept {
  readonly side: Side;
  readonly what: string;
  readonly why: string;
  /** It is what the run's schema copy has made: only schema verdigris says which objects these are. */
  readonly isCopy?: true;
}

export type CleanPlan =
  | { readonly refused: true; readonly why: string; readonly next: string }
  | { readonly refused: false; readonly actions: readonly CleanAction[]; readonly kept: readonly Kept[] };

/**
 * What removes the leftovers of a run that is over, of what belongs to its migration (`withoutHandedOn`), in the order in which it must be done: subscribers before the slots
 * that they hold, everything that names schema verdigris before the schema. The fence of a side goes only where that
 * can't leave both sides open. Pure.
 */
export function planCleaning(found: Found, judged: Verdict, liveness: Liveness, options: CleanOptions): CleanPlan {
  const verdict = asReleased(found, judged, options);
  const refusal = refuse(found, verdict, liveness, options);
  if (refusal !== undefined) return { refused: true, ...refusal };
  const sides = (['green', 'blue'] as const).flatMap((side) => {
    const one = found[side];
    return one.reached ? [one.inventory] : [];
  });
  const ends = sides.map((inventory) => ({
    inventory,
    end: endOf(inventory, found, verdict, options),
    needed: options.dropTriggers === undefined && areTriggersNeeded(inventory, verdict),
  }));
  const forAll = (actions: (inventory: Inventory) => CleanAction[]): CleanAction[] => sides.flatMap(actions);
  return {
    refused: false,
    actions: [
      ...forAll(({ side, sessions }) =>
        sessions.map(({ pid, purpose }) => ({ kind: 'endSession', side, pid, purpose })),
      ),
      ...forAll(readsToBlue),
      ...forAll((inventory) => (mayFeedReaders(inventory, found) ? [] : feedsOf(inventory))),
      ...forAll(({ side, slots }) => slots.map(({ name }) => ({ kind: 'dropSlot', side, name }))),
      ...forAll(({ side, publications }) => publications.map(({ name }) => ({ kind: 'dropPublication', side, name }))),
      ...forAll(buildLeftovers),
      ...ends.flatMap(({ inventory, end, needed }) => endActions(inventory, end, needed, options)),
    ],
    kept: [
      ...keptUnreached(found.blue),
      ...keptUnreached(found.green),
      ...sides.flatMap((inventory) => (mayFeedReaders(inventory, found) ? keptFeeds(inventory) : [])),
      ...ends.flatMap(({ inventory, end }) => keptOf(inventory, end, options)),
      ...ends.flatMap(({ inventory, needed }) => (needed ? [keptTriggers(inventory)] : [])),
    ],
  };
}

/**
 * A side whose release by name was broken off, and that is named again, is on its way to be a database of its own: that it
 * can be written to leaves no doubt about where the run's writes are. So it is where its schema verdigris has gone already:
 * what is left then is on the other side.
 */
function asReleased(found: Found, verdict: Verdict, { release }: CleanOptions): Verdict {
  if (verdict.kind !== 'both') return verdict;
  const { truth, epoch, why } = verdict;
  const side = otherSide(truth);
  const overtaken = found[side];
  if (release[side] === undefined || !overtaken.reached) return verdict;
  if (overtaken.inventory.schema && !isReleased(overtaken.inventory)) return verdict;
  return { kind: 'certain', primary: truth, epoch, why };
}

function keptUnreached(one: SideFound): Kept[] {
  if (one.reached) return [];
  const { side, standby } = one;
  // What goes on blue goes there with it.
  if (standby !== undefined) return standby.closedByDefault ? [closedByDefault(side)] : [];
  const why = one.handedOn === undefined ? "it can't be reached: run this again when it is back" : one.why;
  return [{ side, what: 'everything', why }];
}

function closedByDefault(side: Side): Kept {
  return {
    side,
    what: 'default_transaction_read_only = on',
    why: 'the run has set it, so that nobody writes there by mistake; to take it back: ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf()',
  };
}

function refuse(
  found: Found,
  verdict: Verdict,
  liveness: Liveness,
  options: CleanOptions,
): { why: string; next: string } | undefined {
  if (!found.blue.reached && !found.green.reached) {
    return { why: 'neither side can be reached', next: 'bring one of them back; the other can be cleaned later' };
  }
  const mixedUp = mixUp(found);
  if (mixedUp !== undefined) return mixedUp;
  const living = refuseLiving(liveness);
  if (living !== undefined) return living;
  if (verdict.kind === 'nobody' || verdict.kind === 'both') return { why: verdict.why, next: verdict.next };
  // With one side away it is cleaned as far as is safe; with both here, an unclear state is for people.
  const bothHere = found.blue.reached && found.green.reached;
  if (bothHere && verdict.kind === 'unknown' && hasAnyState(found)) return { why: verdict.why, next: verdict.next };
  return refuseOptions(found, verdict, options);
}

function refuseOptions(
  found: Found,
  verdict: Verdict,
  { release, dropCopy, dropTriggers }: CleanOptions,
): { why: string; next: string } | undefined {
  const migration = migrationOf(found);
  const given = [release.blue, release.green, dropCopy, dropTriggers].filter((name) => name !== undefined);
  if (given.some((name) => name !== migration)) {
    return {
      why: `the confirmation is not the name of the migration${migration === undefined ? ': none is known here' : ` (it is "${migration}")`}`,
      next: 'write the name of the migration that is cleaned up: it is asked so that no other one is hit',
    };
  }
  const { green } = found;
  if (dropCopy === undefined || !green.reached) return undefined;
  if (verdict.kind !== 'certain' || verdict.primary !== 'blue' || hasBeenPrimary(green.inventory, verdict.epoch ?? 0)) {
    return {
      why: 'green takes writes, or has taken some: its rows may be nowhere else',
      next: 'leave --drop-copy out; empty green by hand when you are sure',
    };
  }
  return undefined;
}

function hasAnyState({ blue, green }: Found): boolean {
  return [blue, green].some((side) => side.reached && side.inventory.schema && !isFree(side.inventory));
}

/** Schema verdigris says nothing of the run, and keeps nobody from writing. */
function isFree(inventory: Inventory): boolean {
  return isForgotten(inventory) || isUnclaimed(inventory);
}

/** Installed by a claim that went no further: no run has ever had this database. */
function isUnclaimed({ owner, events, otherMigrations, fence, fenceOpen }: Inventory): boolean {
  if (owner !== null || otherMigrations.length > 0 || events.some(({ what }) => what.startsWith('claimed')))
    return false;
  return fenceOpen === true && fence.every(({ state }) => state === 'absent');
}

/** Cleaned before: schema verdigris is there for other migrations alone, and nothing keeps anybody from writing. */
function isForgotten({ owner, route, otherMigrations, fence, fenceOpen }: Inventory): boolean {
  if (owner === null || owner.outcome === null || route !== null || otherMigrations.length === 0) return false;
  return fenceOpen === true && fence.every(({ state }) => state === 'absent');
}

/** The migration that owns the databases, where one of them says so. */
export function migrationOf(found: Found): string | undefined {
  for (const side of ['blue', 'green'] as const) {
    const one = found[side];
    if (one.reached && one.inventory.owner !== null) return one.inventory.owner.migration;
  }
  return undefined;
}

/** How a side ends. */
type End =
  /** No fence, no schema verdigris. */
  | { readonly kind: 'free' }
  /** The primary: no fence, but the schema stays, since routers read from it that writes are there. */
  | { readonly kind: 'primary' }
  /** Stays as it is, but is no longer owned by the run. */
  | { readonly kind: 'closed'; readonly why: string }
  /** Nothing but replication goes, until it is certain who is primary. */
  | { readonly kind: 'untouched'; readonly why: string };

function endOf(inventory: Inventory, found: Found, verdict: Verdict, { release }: CleanOptions): End {
  const { side } = inventory;
  if (!inventory.schema || isFree(inventory)) return { kind: 'free' };
  const later = migrationAfter(inventory, found);
  if (later !== undefined) {
    return release[side] === undefined ? { kind: 'closed', why: whyClosed(inventory, later) } : { kind: 'free' };
  }
  if (verdict.kind !== 'certain') {
    const unreleased = release[side] === undefined ? '' : `--release-${side} does nothing here, since `;
    return { kind: 'untouched', why: `${unreleased}who is primary is not certain: ${verdict.why}` };
  }
  if (verdict.primary === side) {
    return side === 'green' || isOnlyWitness(inventory, found) ? { kind: 'primary' } : { kind: 'free' };
  }
  if (release[side] !== undefined || !hasBeenPrimary(inventory, verdict.epoch ?? 0)) return { kind: 'free' };
  return { kind: 'closed', why: whyClosed(inventory, verdict.primary) };
}

function whyClosed({ side, owner }: Inventory, writesOn: string): string {
  return `writes are on ${writesOn}: without its fence ${side} would take writes as well. To open it all the same: --release-${side} ${owner?.migration ?? 'NAME'}`;
}

/** The later migration that has what this side has given its writes to. */
function migrationAfter({ side, route }: Inventory, found: Found): string | undefined {
  const other = found[otherSide(side)];
  if (other.reached || other.handedOn === undefined || route?.writesOn !== other.side) return undefined;
  return `the databases of migration "${other.handedOn}"`;
}

/** Blue was opened without green: a green that comes back still says that it has the writes, unless it was closed. */
function isOnlyWitness({ owner, route }: Inventory, { green }: Found): boolean {
  if (owner?.outcome !== GREEN_LOST || route === null) return false;
  return !green.reached || (green.inventory.route !== null && green.inventory.route.epoch < route.epoch);
}

/** Whether code that writes only the old columns would be refused where writes are, were the up/down triggers gone. */
export function areTriggersNeeded({ side, onlyFilled }: Inventory, verdict: Verdict): boolean {
  const takesWrites = verdict.kind === 'certain' && verdict.primary === side;
  return takesWrites && onlyFilled.length > 0;
}

function keptTriggers({ side, upDown, onlyFilled, owner }: Inventory): Kept {
  return {
    side,
    what: `the up/down triggers of ${upDown.length} tables, and schema verdigris with their functions`,
    why: `writes are here, and NOT NULL columns without a default are filled by them alone where code leaves them out: ${onlyFilled.join(', ')}. When all code writes these: --drop-triggers ${owner?.migration ?? 'NAME'}`,
  };
}

/** Routers go on by the route for as long as its schema is there, which may be for ever. */
function readsToBlue({ side, route }: Inventory): CleanAction[] {
  if (side !== 'blue' || route === null || route.writesOn !== 'blue' || route.greenReadPercent === 0) return [];
  return [{ kind: 'takeReadsBack', side, percent: route.greenReadPercent, epoch: route.epoch }];
}

function feedsOf({ side, subscriptions }: Inventory): CleanAction[] {
  return subscriptions.map(({ name }) => ({ kind: 'dropSubscription', side, name }));
}

/** An index that is being built stays INVALID when the session that builds it is ended, which comes first. */
function buildLeftovers({ side, invalidIndexes, proofs }: Inventory): CleanAction[] {
  return [
    ...invalidIndexes
      .filter(({ ours }) => ours)
      .map(({ schema, name }): CleanAction => ({ kind: 'dropIndex', side, schema, name })),
    ...proofs.map(({ schema, table, name }): CleanAction => ({ kind: 'dropProof', side, schema, table, name })),
  ];
}

/** @param needed whether the application's writes may need the up/down triggers, which stay then */
function endActions(
  inventory: Inventory,
  end: End,
  needed: boolean,
  { dropCopy, release }: CleanOptions,
): CleanAction[] {
  const { side, upDown, fence, schema, owner, eventTriggers, dependents, otherMigrations, copied } = inventory;
  if (end.kind === 'untouched') return [];
  const fenced = fence.filter(({ state }) => state !== 'absent' && state !== 'lost').length;
  const actions: CleanAction[] = eventTriggers.map((name) => ({ kind: 'dropEventTrigger', side, name }));
  if (side === 'green' && dropCopy !== undefined && copied > 0)
    actions.push({ kind: 'dropCopy', side, objects: copied });
  if (upDown.length > 0 && !needed) actions.push({ kind: 'dropUpDown', side, tables: upDown.length });
  if (end.kind !== 'closed' && fenced > 0) {
    const released = end.kind === 'free' && release[side] !== undefined;
    actions.push({ kind: 'dropFence', side, tables: fenced, released });
  }
  if (end.kind === 'free' && !needed && dependents.length === 0 && otherMigrations.length === 0) {
    if (schema) actions.push({ kind: 'dropSchema', side });
    return actions;
  }
  if (owner !== null && owner.outcome === null) actions.push({ kind: 'endOwnership', side });
  if (owner !== null && end.kind === 'free' && otherMigrations.length > 0 && !isForgotten(inventory))
    actions.push({ kind: 'forgetRun', side, others: otherMigrations });
  return actions;
}

function keptOf(inventory: Inventory, end: End, { dropCopy }: CleanOptions): Kept[] {
  const { side, dependents, otherMigrations, copied, invalidIndexes } = inventory;
  const kept: Kept[] = [];
  if (end.kind === 'closed' || end.kind === 'untouched') {
    kept.push({ side, what: 'the fence and schema verdigris', why: end.why });
  }
  if (end.kind === 'primary') {
    kept.push({
      side,
      what: 'schema verdigris',
      why: 'routers read from it that writes are here; the next run takes it over',
    });
  }
  if (end.kind === 'free' && dependents.length > 0) {
    kept.push({
      side,
      what: 'schema verdigris',
      why: `these use it and would go with it: ${dependents.slice(0, 5).join(', ')}`,
    });
  }
  if (end.kind === 'free' && otherMigrations.length > 0) {
    kept.push({
      side,
      what: 'schema verdigris',
      why: `routers of migration ${otherMigrations.join(', ')} read from it where writes are`,
    });
  }
  if (side === 'green' && end.kind === 'free' && copied > 0 && dropCopy === undefined) {
    const why = `the run's copy; to drop it as well, now, while it is known what was made: --drop-copy ${inventory.owner?.migration ?? 'NAME'}`;
    const what = `${copied} objects (tables with their rows, and what belongs to them)`;
    kept.push({ side, what, why, isCopy: true });
  }
  if (side === 'green' && inventory.byStandby && end.kind === 'free') {
    const why =
      'it was a physical standby of blue, and can not follow it again: make it one anew before the next run (pg_basebackup, or pg_rewind), or remove it';
    kept.push({ side, what: 'all its rows', why });
  }
  if (side === 'green' && inventory.closedByDefault) kept.push(closedByDefault(side));
  for (const { schema, name, ours } of invalidIndexes) {
    if (!ours)
      kept.push({ side, what: `index ${schema}.${name}`, why: 'it is INVALID, but it is not known to be of this run' });
  }
  return kept;
}

/**
 * What has stayed, once these actions were done: with schema verdigris has gone what `--drop-copy` would have gone by.
 * Pure.
 */
export function keptAfter(kept: readonly Kept[], done: readonly CleanAction[]): Kept[] {
  const isForgotten = done.some(
    ({ side, kind }) => side === 'green' && (kind === 'dropSchema' || kind === 'forgetRun'),
  );
  return kept.map((one) => (isForgotten && one.isCopy === true ? { ...one, why: COPY_FORGOTTEN } : one));
}

const COPY_FORGOTTEN =
  "the run's copy; it is not written down any more which these are: drop them by hand, or give the next run an empty database";

/** An action for people. */
export function describeAction(action: CleanAction): string {
  const { side } = action;
  switch (action.kind) {
    case 'endSession':
      return `${side}: end the session ${action.pid} (${action.purpose}) of a worker of the run`;
    case 'takeReadsBack':
      return `${side}: take back the ${action.percent} % of the reads that are on green`;
    case 'dropSubscription':
      return `${side}: drop subscription ${action.name}`;
    case 'dropSlot':
      return `${side}: drop slot ${action.name}`;
    case 'dropPublication':
      return `${side}: drop publication ${action.name}`;
    case 'dropIndex':
      return `${side}: drop INVALID index ${action.schema}.${action.name}`;
    case 'dropProof':
      return `${side}: drop constraint ${action.name} of ${action.schema}.${action.table}`;
    case 'dropEventTrigger':
      return `${side}: drop event trigger ${action.name}`;
    case 'dropUpDown':
      return `${side}: drop the up/down triggers of ${action.tables} tables`;
    case 'dropFence':
      return `${side}: remove the fence of ${action.tables} tables`;
    case 'dropCopy':
      return `${side}: drop the ${action.objects} objects that the run's schema copy made, with their rows`;
    case 'endOwnership':
      return `${side}: write down that the run is over, so that another one may begin`;
    case 'forgetRun':
      return `${side}: remove what the run keeps in schema verdigris, which stays for ${action.others.join(', ')}`;
    case 'dropSchema':
      return `${side}: drop schema verdigris`;
  }
}
