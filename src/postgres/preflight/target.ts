import { readUserObjects, type DatabaseObject } from '../schema-copy/created-objects.js';
import { findGivenAway } from '../given-away.js';
import { isNameTaken } from '../other-migrations.js';
import { nameTaken } from '../ownership.js';
import { hasState, readOwner } from '../state.js';
import { BOTH_SIDES, NEW_GREEN, type PairCheck, type SideCheck, type SideContext } from './check.js';
import { listed } from './finding.js';

export const ownedByAnother: SideCheck = {
  name: 'owned-by-another-run',
  sides: BOTH_SIDES,
  run: async ({ session, side, runId }) => {
    const owner = await readOwner(session);
    if (owner === undefined || owner.runId === runId || owner.outcome !== null) return [];
    return [
      {
        severity: 'error',
        object: 'verdigris.owner',
        message: `${side} belongs to another run: migration "${owner.migration}", run ${owner.runId}`,
        remedy: `Let that run end or roll it back (workflow verdigris/${owner.migration}); only one run may move a database. If that workflow is gone: verdigris doctor plan.json --clean, with the plan of that migration`,
      },
    ];
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
    const remedy = `${found.nextStep.charAt(0).toUpperCase()}${found.nextStep.slice(1)}`;
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
    const remedy = `${nextStep.charAt(0).toUpperCase()}${nextStep.slice(1)}`;
    return [{ severity: 'error', object: 'verdigris.route', message, remedy }];
  },
};

/** Green must have nothing but what this run has put there. */
export const greenEmpty: PairCheck = {
  name: 'green-empty',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    const owner = (await hasState(green.session)) ? await readOwner(green.session) : undefined;
    // Activities run again: what a first try of this very run has made is no surprise.
    if (owner?.runId === green.runId) return [];
    const objects = (await readUserObjects(green.session)).filter(
      ({ type }) => type !== 'schema' && type !== 'extension',
    );
    const relations = objects.filter(({ type }) => RELATIONS.has(type));
    const clashing = relations.length > 0 ? relations : await alsoOnBlue(blue, objects);
    if (clashing.length === 0) return [];
    const leftover = owner?.outcome !== undefined && owner.outcome !== null;
    return [
      {
        side: 'green',
        severity: 'error',
        object: listed(clashing.map(({ type, identity }) => `${type} ${identity}`)),
        message: leftover
          ? `green is not empty: an earlier run of "${owner.migration}" ended (${owner.outcome}) and its copy is still here`
          : `green is not empty: it has ${clashing.length} objects that Verdigris has not made`,
        remedy: leftover
          ? 'Drop that copy (DROP SCHEMA ... CASCADE, or give a new database): rows of it are out of date'
          : 'Give an empty database: CREATE DATABASE, or drop what is there if nobody needs it',
      },
    ];
  },
};

const RELATIONS = new Set(['table', 'view', 'materialized view', 'sequence', 'foreign table']);

/** Functions and types of a managed service's template are no harm, unless blue has the same. */
async function alsoOnBlue(blue: SideContext, objects: readonly DatabaseObject[]): Promise<DatabaseObject[]> {
  if (objects.length === 0) return [];
  const there = new Set((await readUserObjects(blue.session)).map(({ type, identity }) => `${type} ${identity}`));
  return objects.filter(({ type, identity }) => there.has(`${type} ${identity}`));
}
