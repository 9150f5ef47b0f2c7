import type { Node } from 'libpg-query';
import { nameKey, objectKey, relationKey } from '../raw-sql.js';
import type { PlanFacts } from '../facts.js';
import type { CatalogRule, Report, Rule } from '../rule.js';
import { qualifiedName, short, tableChanges, upStatements } from '../statement.js';
import { formatTableName, parseTableName } from '../table-name.js';

/** Expand, don't contract: what blue's application needs stays as it is until the standby window is over. */

export const directTypeChange: Rule = {
  name: 'direct-type-change',
  severity: 'error',
  why: 'it rewrites the table under a lock that stops reads and writes, blue and green would disagree about the column, and there is no way back',
  *check(facts) {
    for (const [i, migration] of facts.plan.migrations.entries()) {
      if (!('changeType' in migration)) continue;
      const { column, newColumn, type } = migration.changeType;
      if (column !== newColumn) continue;
      yield {
        place: `migrations[${i}].changeType.newColumn`,
        message: `the new column has the name of the old one, "${column}"`,
        instead: `write another name, such as "${column}_${/^\w+/.exec(type)?.[0] ?? 'new'}"; the old column stays beside it`,
      };
    }
    for (const { place, table, change } of tableChanges(facts)) {
      if (change.subtype !== 'AT_AlterColumnType') continue;
      const column = change.name ?? '';
      yield {
        place,
        message: `ALTER COLUMN ${column} TYPE changes the type of a column of ${table} in place`,
        instead: `write { "changeType": { "table": "${table}", "column": "${column}", "newColumn": "${column}_new", "type": "…", "up": "…", "down": "…" } }`,
      };
    }
  },
};

const LATER =
  'take it out; when the standby window is over and no code uses the old name any more, do it in another run';

export const dropOrRename: Rule = {
  name: 'drop-or-rename',
  severity: 'error',
  why: 'code that still runs uses the old name, replication stops when a published table or column is missing, and after a rollback the data is gone',
  *check(facts) {
    for (const { place, table, change } of tableChanges(facts)) {
      if (change.subtype !== 'AT_DropColumn') continue;
      yield { place, message: `it drops the column "${change.name ?? ''}" of ${table}`, instead: LATER };
    }
    for (const { place, node, text } of upStatements(facts)) yield* dropped(place, node, text, facts.created);
  },
};

/** Kinds of objects that an application or the replication may use. Indexes and triggers are neither. */
const USED: Readonly<Record<string, string>> = {
  OBJECT_TABLE: 'the table',
  OBJECT_COLUMN: 'a column of',
  OBJECT_VIEW: 'the view',
  OBJECT_MATVIEW: 'the materialized view',
  OBJECT_SEQUENCE: 'the sequence',
  OBJECT_SCHEMA: 'the schema',
  OBJECT_TYPE: 'the type',
  OBJECT_DOMAIN: 'the domain',
  OBJECT_ATTRIBUTE: 'an attribute of',
  OBJECT_FOREIGN_TABLE: 'the foreign table',
  OBJECT_FUNCTION: 'the function',
  OBJECT_PROCEDURE: 'the procedure',
  OBJECT_EXTENSION: 'the extension',
};

function* dropped(place: string, node: Node, text: string, created: ReadonlySet<string>): Generator<Report> {
  if ('DropStmt' in node) {
    const kind = USED[node.DropStmt.removeType ?? ''];
    if (kind === undefined) return;
    for (const names of (node.DropStmt.objects ?? []).map(qualifiedName)) {
      const schema = node.DropStmt.removeType === 'OBJECT_SCHEMA' ? 'schema' : names.at(-2);
      if (created.has(objectKey(schema, names.at(-1) ?? ''))) continue;
      yield { place, message: `it drops ${kind} ${names.join('.')}`, instead: LATER };
    }
  } else if ('RenameStmt' in node) {
    const kind = USED[node.RenameStmt.renameType ?? ''];
    const { relation, object, subname, newname } = node.RenameStmt;
    if (kind === undefined || created.has(relation === undefined ? nameKey(object) : relationKey(relation))) return;
    yield {
      place,
      message: `it renames ${kind} ${relation?.relname ?? subname ?? ''} (${short(text)})`,
      instead:
        node.RenameStmt.renameType === 'OBJECT_COLUMN'
          ? `add the column "${newname ?? ''}" by addColumn with "up": "${subname ?? ''}" and "down": "${subname ?? ''} = ${newname ?? ''}", and drop "${subname ?? ''}" in another run`
          : `make a view of the new name (CREATE VIEW … AS SELECT * FROM …), and rename in another run`,
    };
  } else if ('AlterObjectSchemaStmt' in node) {
    const { relation, object, newschema } = node.AlterObjectSchemaStmt;
    if (created.has(relation === undefined ? nameKey(object === undefined ? [] : [object]) : relationKey(relation)))
      return;
    yield {
      place,
      message: `it moves ${relation?.relname ?? 'an object'} to the schema ${newschema ?? ''}: its old name is gone`,
      instead: `make a view in the new schema, and move in another run`,
    };
  }
}

export const loosenedConstraint: Rule = {
  name: 'loosened-constraint',
  severity: 'error',
  why: 'green would take rows that blue refuses: the first of them stops the reverse replication, and with it the way back without loss',
  *check(facts) {
    for (const { place, table, change } of tableChanges(facts)) {
      if (change.subtype === 'AT_DropNotNull') {
        yield { place, message: `it lets "${change.name ?? ''}" of ${table} be NULL`, instead: LATER };
      } else if (change.subtype === 'AT_DropConstraint') {
        yield { place, message: `it drops the constraint "${change.name ?? ''}" of ${table}`, instead: LATER };
      }
    }
    for (const { place, node, text } of upStatements(facts)) {
      if (!('AlterDomainStmt' in node) || facts.created.has(nameKey(node.AlterDomainStmt.typeName))) continue;
      if (!LOOSENED_DOMAIN.has(node.AlterDomainStmt.subtype ?? '')) continue;
      yield { place, message: `it lets a domain take more values (${short(text)})`, instead: LATER };
    }
  },
};

export const droppedUniqueIndex: CatalogRule = {
  name: loosenedConstraint.name,
  severity: loosenedConstraint.severity,
  why: loosenedConstraint.why,
  *check(facts, catalog) {
    for (const { place, node } of upStatements(facts)) {
      if (!('DropStmt' in node) || node.DropStmt.removeType !== 'OBJECT_INDEX') continue;
      for (const names of (node.DropStmt.objects ?? []).map(qualifiedName)) {
        const [schema, name] = [names.at(-2) ?? 'public', names.at(-1) ?? ''];
        const table = catalog.tables.find((one) => one.schema === schema && one.uniqueIndexes?.includes(name) === true);
        if (table === undefined || makesUnique(facts, formatTableName(table))) continue;
        yield {
          place,
          message: `it drops the unique index "${name}" of ${formatTableName(table)}`,
          instead: LATER,
        };
      }
    }
  },
};

/** Whether the plan makes a unique index of its own on the table, which may take the place of another one. */
function makesUnique(facts: PlanFacts, table: string): boolean {
  const byRawSql = [...upStatements(facts)].some(({ node }) => {
    if (!('IndexStmt' in node) || node.IndexStmt.unique !== true) return false;
    const { schemaname: schema = 'public', relname: name = '' } = node.IndexStmt.relation ?? {};
    return formatTableName({ schema, name }) === table;
  });
  if (byRawSql) return true;
  return facts.plan.migrations.some((migration) => {
    const isOn = (text: string): boolean => formatTableName(parseTableName(text)) === table;
    if ('createIndex' in migration) return migration.createIndex.unique && isOn(migration.createIndex.table);
    if (!('addConstraint' in migration)) return false;
    const { unique, primaryKey } = migration.addConstraint;
    return (unique ?? primaryKey) !== undefined && isOn(migration.addConstraint.table);
  });
}

/** What ALTER DOMAIN may be, as the parser has it: DROP NOT NULL and DROP CONSTRAINT. */
const LOOSENED_DOMAIN: ReadonlySet<string> = new Set(['N', 'X']);

export const enumValueOnGreen: Rule = {
  name: 'enum-value-on-green',
  severity: 'error',
  why: 'blue does not know the value: the first row with it stops the reverse replication, and with it the way back without loss',
  *check(facts) {
    for (const { place, node } of upStatements(facts)) {
      if (!('AlterEnumStmt' in node)) continue;
      const { typeName, newVal, oldVal } = node.AlterEnumStmt;
      if (facts.created.has(nameKey(typeName))) continue;
      const type = nameKey(typeName);
      yield {
        place,
        message:
          oldVal === undefined
            ? `it adds '${newVal ?? ''}' to ${type} on green alone`
            : `it renames '${oldVal}' of ${type} on green alone`,
        instead:
          oldVal === undefined
            ? `run ALTER TYPE ${type} ADD VALUE '${newVal ?? ''}' on blue before the migration (it takes no lock on tables), or change the column by changeType to a new type with a "down" that maps the value`
            : 'change the column by changeType to a new type, with "up" and "down" that map the values',
      };
    }
  },
};
