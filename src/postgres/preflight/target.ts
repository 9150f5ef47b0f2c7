import { readUserObjects, type DatabaseObject } from '../schema-copy/created-objects.js';
import { notOurs, readForeignParts } from '../foreign-state.js';
import { findGivenAway } from '../given-away.js';
import { isNameTaken } from '../other-migrations.js';
import { describeOtherOwner } from '../other-owner.js';
import { nameTaken } from '../ownership.js';
import { readStateObjects } from '../doctor/read-state.js';
import type { Session } from '../session.js';
import { hasState, readOwner, type Owner } from '../state.js';
import { BOTH_SIDES, NEW_GREEN, type Found, type PairCheck, type SideCheck, type SideContext } from './check.js';
import { listed } from './finding.js';

/** A schema verdigris that others have made, or have put something into: the run would run what is in it. */
export const foreignState: SideCheck = {
  name: 'state-not-ours',
  sides: BOTH_SIDES,
  run: async ({ session, side, plan }) => {
    // A standby has blue's, with its owner.
    if (side === 'green' && plan.bootstrap.method === 'standby') return [];
    const parts = await readForeignParts(session);
    if (parts.length === 0) return [];
    const { message, nextStep } = notOurs(side, parts.join(', '));
    return [{ severity: 'error', object: 'schema verdigris', message, remedy: sentence(nextStep) }];
  },
};

export const ownedByAnother: SideCheck = {
  name: 'owned-by-another-run',
  sides: BOTH_SIDES,
  run: async ({ session, side, runId }) => {
    const owner = await readOwner(session);
    if (owner === undefined || owner.runId === runId || owner.outcome !== null) return [];
    const dropCopy =
      side === 'green' ? `; --drop-copy ${owner.migration} in the same call drops what it has copied to green` : '';
    const ifGone = `verdigris doctor plan.json --clean, with the plan of that migration${dropCopy}`;
    const { message, nextStep } = await describeOtherOwner(session, side, owner, ifGone);
    return [{ severity: 'error', object: 'verdigris.owner', message, remedy: sentence(nextStep) }];
  },
};

/** A database whose writes were given away by a run that has ended must not become blue: both would take writes. */
export const givenAway: SideCheck = {
  name: 'given-away',
  sides: ['blue'],
  run: async ({ session, runId }) => {
    if (!(await hasState(session))) return [];
    const owner = await readOwner(session);
    // This very run may have moved the writes; of a run that lives another check says so.
    if (owner !== undefined && (owner.runId === runId || owner.outcome === null)) return [];
    const found = await findGivenAway(session);
    if (found === undefined) return [];
    const remedy = sentence(found.nextStep);
    return [
      { severity: 'error', object: 'verdigris.route', message: `this database can't be blue: ${found.why}`, remedy },
    ];
  },
};

/** A name that a finished migration of these databases has: its routers are still there. */
export const nameIsFree: SideCheck = {
  name: 'name-taken',
  sides: BOTH_SIDES,
  run: async ({ session, side, plan, runId }) => {
    if (!(await isNameTaken(session, plan.name, runId))) return [];
    // Blue given away is told by another check, which says what can be done.
    if (side === 'blue' && (await findGivenAway(session)) !== undefined) return [];
    const { message, nextStep } = nameTaken(side, plan.name);
    return [{ severity: 'error', object: 'verdigris.route', message, remedy: sentence(nextStep) }];
  },
};

/** A next step as a remedy is written. */
function sentence(nextStep: string): string {
  return `${nextStep.charAt(0).toUpperCase()}${nextStep.slice(1)}`;
}

/** Green must have nothing but what this run has put there. */
export const greenEmpty: PairCheck = {
  name: 'green-empty',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    const owner = await readOwner(green.session);
    // Activities run again: what a first try of this very run has made is no surprise. What belongs to a run that lives is
    // told by another check, and nobody is to drop it.
    if (owner?.runId === green.runId || owner?.outcome === null) return [];
    const objects = (await readUserObjects(green.session)).filter(
      ({ type }) => type !== 'schema' && type !== 'extension',
    );
    const relations = objects.filter(({ type }) => RELATIONS.has(type));
    const clashing = relations.length > 0 ? relations : await alsoOnBlue(blue, objects);
    if (clashing.length === 0) return [];
    const object = listed(clashing.map(({ type, identity }) => `${type} ${identity}`));
    const told =
      owner === undefined
        ? ofNobody(clashing.length, await lookExchanged(blue, relations))
        : await ofEndedRun(green.session, owner);
    return [{ side: 'green', severity: 'error', object, ...told }];
  },
};

type Told = Pick<Found, 'message' | 'remedy'>;

/** @param areExchanged whether blue and green look exchanged: then nobody is told first to drop what is on green */
function ofNobody(count: number, areExchanged: boolean): Told {
  const message = `green is not empty: it has ${count} objects that no run of Verdigris is known to have made`;
  const remedy = 'Give an empty database: CREATE DATABASE, or drop what is there if nobody needs it';
  if (!areExchanged) return { message, remedy };
  return {
    message: `${message}. Blue has no table, and green has: the two look exchanged`,
    remedy: `See first which of the two the application uses: that one is "blue". If it is this green, drop nothing, and exchange the connections of "blue" and "green" in the plan. If not: ${remedy.charAt(0).toLowerCase()}${remedy.slice(1)}`,
  };
}

/** Whether the side that should have tables has none, and the one that should be empty has. */
async function lookExchanged(blue: SideContext, onGreen: readonly DatabaseObject[]): Promise<boolean> {
  const isTable = ({ type }: DatabaseObject): boolean => type === 'table';
  return onGreen.some(isTable) && !(await readUserObjects(blue.session)).some(isTable);
}

/** What a run that has ended has left may be the database that has the writes: it is never told to be dropped then. */
async function ofEndedRun(session: Session, { migration, side, outcome }: Owner): Promise<Told> {
  const { owner, route } = await readStateObjects(session);
  const was = `it was ${side} of "${migration}", which has ended (${outcome ?? ''})`;
  const isGivenAway = side === 'blue' && (await findGivenAway(session)) !== undefined;
  if (side === 'blue' ? !isGivenAway : route?.writesOn === 'green') {
    return {
      message: `green is the database that has the writes, by what it says itself: ${was}`,
      remedy: `Drop nothing of it: it can only be "blue" of a next plan, with an empty database as "green". verdigris doctor plan.json --who-is-primary, with the plan of "${migration}", says where writes are`,
    };
  }
  if (isGivenAway) {
    return {
      message: `green is not empty: ${was}, and has given its writes away`,
      remedy: 'Give an empty database; or drop what is there, when nobody needs the database as it was before that run',
    };
  }
  if (route !== null && route.epoch > (owner?.claimedEpoch ?? 0)) {
    return {
      message: `green is not empty: ${was}; it had the writes for a while and was kept, since it may hold what blue can't`,
      remedy:
        'See first that nothing of it is missed (values of new columns, and what the report of that run says was lost); then drop it, or give an empty database',
    };
  }
  return {
    message: `green is not empty: an earlier run of "${migration}" ended (${outcome ?? ''}) and its copy is still here`,
    remedy: 'Drop that copy (DROP SCHEMA ... CASCADE, or give a new database): rows of it are out of date',
  };
}

const RELATIONS = new Set(['table', 'view', 'materialized view', 'sequence', 'foreign table']);

/** Functions and types of a managed service's template are no harm, unless blue has the same. */
async function alsoOnBlue(blue: SideContext, objects: readonly DatabaseObject[]): Promise<DatabaseObject[]> {
  if (objects.length === 0) return [];
  const there = new Set((await readUserObjects(blue.session)).map(({ type, identity }) => `${type} ${identity}`));
  return objects.filter(({ type, identity }) => there.has(`${type} ${identity}`));
}
