import { formatTableName, parseTableName } from '../../plan/table-name.js';
import type { Plan } from '../../plan/schema.js';
import { sameTable } from '../catalog.js';
import { onlyHere, readReferences, type Reference } from '../refused-truncates.js';
import type { Found, SideCheck } from './check.js';

/** A foreign key of the plan forbids on green what blue allows. */
export const refusedTruncates: SideCheck = {
  name: 'refused-truncates',
  sides: ['blue'],
  run: async ({ session, plan, tables }) => {
    const added = referencesOf(plan);
    if (added.length === 0) return [];
    const moved = await tables();
    return onlyHere(added, await readReferences(session))
      .filter(({ references }) => moved.some(({ name }) => sameTable(name, references)))
      .map(({ table, references }): Found => {
        const [from, to] = [formatTableName(table), formatTableName(references)];
        return {
          severity: 'warning',
          object: to,
          message: `the plan adds a foreign key of ${from} to ${to} that blue has not: green refuses a TRUNCATE of ${to} alone then, which blue allows, and its replication stops until ${to} is copied anew`,
          remedy: `Let jobs that empty ${to} DELETE until the run has ended; or add the key on blue as well, or after the run`,
        };
      });
  },
};

/** The tables that foreign keys of a plan bind, each pair once; without those that refer to themselves. */
function referencesOf(plan: Plan): Reference[] {
  const all = plan.migrations.flatMap((migration): Reference[] => {
    const added = 'addConstraint' in migration ? migration.addConstraint : undefined;
    if (added?.foreignKey === undefined) return [];
    return [{ table: parseTableName(added.table), references: parseTableName(added.foreignKey.references.table) }];
  });
  const distinct = new Map(all.map((one) => [JSON.stringify(one), one]));
  return [...distinct.values()].filter(({ table, references }) => !sameTable(table, references));
}
