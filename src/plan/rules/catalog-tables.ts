import { tableFilter } from '../../postgres/catalog-pattern.js';
import type { CatalogSummary } from '../../postgres/catalog-summary.js';
import { attempt } from '../expressions.js';
import type { PlanFacts } from '../facts.js';
import type { CatalogRule, Report } from '../rule.js';
import type { SqlType } from '../types.js';
import { cannotHold, parseType } from '../types.js';
import { formatTableName } from '../table-name.js';
import { WIDER, narrowingInPlan } from './computed.js';
import { isPattern } from './names.js';

/** Rules that compare the plan with the form of blue's tables. */

type CatalogColumn = CatalogSummary['tables'][number]['columns'][number];

export const tableWithoutKey: CatalogRule = {
  name: 'table-without-key',
  severity: 'error',
  why: 'without a key PostgreSQL refuses UPDATE and DELETE on a published table: the application would fail on blue as soon as replication starts; and rows can be neither backfilled nor compared in parts',
  *check({ plan }, catalog) {
    if (![...plan.tables.include, ...plan.tables.exclude].every(isPattern)) return;
    const moved = tableFilter(plan.tables);
    for (const table of catalog.tables) {
      if (table.key !== null || !moved(table)) continue;
      const name = formatTableName(table);
      yield {
        place: 'tables',
        message:
          table.replicaIdentity === 'f'
            ? `${name} has REPLICA IDENTITY FULL and no primary key`
            : `${name} has no primary key and no replica identity`,
        instead: `on blue: CREATE UNIQUE INDEX CONCURRENTLY on columns that are NOT NULL, then ALTER TABLE ${name} ADD PRIMARY KEY USING INDEX, or REPLICA IDENTITY USING INDEX; or add "${name}" to "tables.exclude"`,
      };
    }
  },
};

/** A changeType, with the types of both columns. */
interface TypeChange {
  readonly place: string;
  readonly old: CatalogColumn;
  readonly from: SqlType;
  readonly to: SqlType;
}

export const narrowing: CatalogRule = {
  name: narrowingInPlan.name,
  severity: narrowingInPlan.severity,
  why: narrowingInPlan.why,
  async check(facts, catalog) {
    return (await typeChanges(facts, catalog)).flatMap(({ place, from, to }): Report[] => {
      const reason = cannotHold(from, to);
      return reason === undefined ? [] : [{ place: `${place}.type`, message: reason, instead: WIDER }];
    });
  },
};

export const downMayNotFit: CatalogRule = {
  name: 'down-may-not-fit',
  severity: 'warning',
  why: 'until blue is retired every write on green is also written in the old shape: a value that the old column can not hold is an error for the application, or is cut',
  async check(facts, catalog) {
    return (await typeChanges(facts, catalog)).flatMap(({ place, from, to, old }): Report[] => {
      const reason = cannotHold(to, from);
      if (reason === undefined || cannotHold(from, to) !== undefined) return [];
      return [
        {
          place: `${place}.down`,
          message: `the new column holds values that "${old.name}" (${old.type}) does not: ${reason}`,
          instead:
            'let the application write only values of the old range until blue is retired, or map the others in "down"',
        },
      ];
    });
  },
};

export const withoutEffect: CatalogRule = {
  name: 'without-effect',
  severity: 'warning',
  why: 'the step costs a pass over the table and changes nothing',
  async check(facts, catalog) {
    const same = (await typeChanges(facts, catalog)).flatMap(({ place, from, to, old }): Report[] =>
      JSON.stringify(from) === JSON.stringify(to)
        ? [
            {
              place: `${place}.type`,
              message: `"${old.name}" has the type ${old.type} already`,
              instead: 'leave the step out',
            },
          ]
        : [],
    );
    const notNull = facts.steps.flatMap(({ index, place, key }): Report[] => {
      const migration = facts.plan.migrations[index];
      if (migration === undefined || !('setNotNull' in migration)) return [];
      const column = columnOf(catalog, key, migration.setNotNull.column);
      if (column?.notNull !== true) return [];
      return [{ place, message: `"${column.name}" of ${key} is NOT NULL already`, instead: 'leave the step out' }];
    });
    return [...same, ...notNull];
  },
};

export const generatedColumn: CatalogRule = {
  name: 'generated-column',
  severity: 'error',
  why: 'PostgreSQL computes a generated column itself and refuses every value that "down" would give it',
  *check({ steps, expressions }, catalog) {
    for (const { index, place, use, target } of expressions) {
      const key = steps.find((step) => step.index === index)?.key;
      const column = use !== 'down' || key === undefined ? undefined : columnOf(catalog, key, target);
      if (column?.generated !== true) continue;
      yield {
        place,
        message: `"down" fills "${column.name}", which is a generated column`,
        instead: 'change the columns that it is generated from',
      };
    }
  },
};

export const partitionKey: CatalogRule = {
  name: 'partition-key',
  severity: 'warning',
  why: 'a row goes into a partition before "down" gives it a value: PostgreSQL finds none for it (23514), or refuses a value that belongs in another one (0A000)',
  *check({ steps, expressions }, catalog) {
    for (const { index, place, use, target } of expressions) {
      const key = steps.find((step) => step.index === index)?.key;
      const table = catalog.tables.find((one) => formatTableName(one) === key);
      if (use !== 'down' || target === undefined || table?.partitionKey?.includes(target) !== true) continue;
      yield {
        place,
        message: `"down" fills "${target}", by which ${formatTableName(table)} is partitioned: after the promotion an INSERT that gives the new column alone fails`,
        instead: `keep it, and let the application give "${target}" as well in each INSERT until blue is retired`,
      };
    }
  },
};

function columnOf(catalog: CatalogSummary, key: string, name: string | undefined): CatalogColumn | undefined {
  return catalog.tables.find((table) => formatTableName(table) === key)?.columns.find((column) => column.name === name);
}

async function typeChanges({ plan, steps, types }: PlanFacts, catalog: CatalogSummary): Promise<TypeChange[]> {
  const changes: TypeChange[] = [];
  for (const { index, place, key } of steps) {
    const migration = plan.migrations[index];
    if (migration === undefined || !('changeType' in migration)) continue;
    const old = columnOf(catalog, key, migration.changeType.column);
    const to = types.find((type) => type.index === index)?.parsed;
    if (old === undefined || to === undefined) continue;
    const { parsed: from } = await attempt(() => parseType(old.type));
    if (from !== undefined) changes.push({ place, old, from, to });
  }
  return changes;
}
