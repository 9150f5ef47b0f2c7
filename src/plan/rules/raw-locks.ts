import type { Node } from 'libpg-query';
import { nameKey, relationKey } from '../raw-sql.js';
import type { PlanFacts } from '../facts.js';
import type { Report, Rule } from '../rule.js';
import { short, tableChanges, upStatements } from '../statement.js';

/** Rules on the locks that raw SQL takes. A table that the plan makes itself may be locked: nobody uses it yet. */

export const indexWithoutConcurrently: Rule = {
  name: 'index-without-concurrently',
  severity: 'error',
  why: 'the build stops every write to the table, and so the replication, for as long as it takes',
  *check(facts) {
    for (const { place, node } of upStatements(facts)) {
      if (!('IndexStmt' in node)) continue;
      const { concurrent, relation, idxname } = node.IndexStmt;
      if (concurrent === true || facts.created.has(relationKey(relation))) continue;
      yield {
        place,
        message: `CREATE INDEX ${idxname ?? ''} on ${relationKey(relation)} is not CONCURRENTLY`,
        instead: `write { "createIndex": { "table": "${relationKey(relation)}", "name": "${idxname ?? '…'}", "columns": [ … ] } }, which builds it concurrently, watches it and repairs it`,
      };
    }
  },
};

export const constraintWithoutNotValid: Rule = {
  name: 'constraint-without-not-valid',
  severity: 'error',
  why: 'the table is locked while all its rows are checked, and one row from blue that breaks it stops the replication',
  *check(facts) {
    for (const { place, table, change } of tableChanges(facts)) {
      if (change.subtype === 'AT_SetNotNull') {
        yield {
          place,
          message: `SET NOT NULL on "${change.name ?? ''}" of ${table} reads the whole table under a lock`,
          instead: `write { "setNotNull": { "table": "${table}", "column": "${change.name ?? ''}", "up": "…" } }, which goes by a validated check`,
        };
        continue;
      }
      const constraint = change.def !== undefined && 'Constraint' in change.def ? change.def.Constraint : undefined;
      if (change.subtype !== 'AT_AddConstraint' || constraint === undefined || constraint.skip_validation === true)
        continue;
      const isKey = constraint.contype === 'CONSTR_PRIMARY' && constraint.indexname === undefined;
      if (isKey) {
        yield {
          place,
          message: `PRIMARY KEY on ${table} builds its index under a lock`,
          instead: `write { "addConstraint": { "table": "${table}", "name": "${constraint.conname ?? '…'}", "primaryKey": [ … ] } }, which builds it beside writes`,
        };
        continue;
      }
      if (!['CONSTR_CHECK', 'CONSTR_FOREIGN', 'CONSTR_NOTNULL'].includes(constraint.contype ?? '')) continue;
      yield {
        place,
        message: `ADD CONSTRAINT ${constraint.conname ?? ''} on ${table} is not NOT VALID`,
        instead: `write { "addConstraint": { "table": "${table}", "name": "${constraint.conname ?? '…'}", … } }, which adds it NOT VALID and then validates it`,
      };
    }
  },
};

export const rewritesTable: Rule = {
  name: 'rewrites-table',
  severity: 'error',
  why: 'the table is locked against reads and writes while it is written anew',
  *check(facts): Generator<Report> {
    const instead = 'take it out: green is new, its tables are packed already';
    for (const { place, node, text } of upStatements(facts)) {
      if (locksWholeTable(node, facts)) yield { place, message: `"${short(text)}" locks a whole table`, instead };
    }
    for (const { place, table, change, text } of tableChanges(facts)) {
      if (!['AT_SetLogged', 'AT_SetUnLogged', 'AT_SetTableSpace', 'AT_SetAccessMethod'].includes(change.subtype ?? ''))
        continue;
      yield { place, message: `"${short(text)}" rewrites ${table}`, instead: 'take it out, and do it in another run' };
    }
  },
};

function locksWholeTable(node: Node, { created }: PlanFacts): boolean {
  if ('LockStmt' in node) return true;
  if ('ClusterStmt' in node) return !created.has(relationKey(node.ClusterStmt.relation));
  if (!('VacuumStmt' in node)) return false;
  return (node.VacuumStmt.options ?? []).some((option) => 'DefElem' in option && option.DefElem.defname === 'full');
}

export const concurrentlyNotAlone: Rule = {
  name: 'concurrently-not-alone',
  severity: 'error',
  why: 'PostgreSQL runs such a statement outside a transaction only: the step is no longer done as a whole or not at all, and a failure in its middle leaves it half done',
  *check({ raw }) {
    for (const { place, statements } of raw) {
      if (statements.length < 2) continue;
      for (const { node, text } of statements) {
        if (!mustBeAlone(node)) continue;
        yield {
          place,
          message: `"${short(text)}" stands together with other statements`,
          instead: 'make it a "sql" step of its own (or a createIndex step)',
        };
      }
    }
  },
};

function mustBeAlone(node: Node): boolean {
  if ('IndexStmt' in node) return node.IndexStmt.concurrent === true;
  if ('DropStmt' in node) return node.DropStmt.concurrent === true;
  if ('ReindexStmt' in node) {
    return (node.ReindexStmt.params ?? []).some((p) => 'DefElem' in p && p.DefElem.defname === 'concurrently');
  }
  if ('AlterTableStmt' in node) {
    return (node.AlterTableStmt.cmds ?? []).some(
      (cmd) =>
        'AlterTableCmd' in cmd &&
        cmd.AlterTableCmd.subtype === 'AT_DetachPartition' &&
        cmd.AlterTableCmd.def !== undefined &&
        'PartitionCmd' in cmd.AlterTableCmd.def &&
        cmd.AlterTableCmd.def.PartitionCmd.concurrent === true,
    );
  }
  return 'VacuumStmt' in node && node.VacuumStmt.is_vacuumcmd === true;
}

/** Rules of squawk on locks and rewrites that no rule of ours has. Its others are on style, or on one database alone. */
const SQUAWK_RULES = new Set([
  'adding-field-with-default',
  'adding-required-field',
  'adding-serial-primary-key-field',
  'disallowed-unique-constraint',
  'require-concurrent-index-deletion',
  'require-concurrent-partition-detach',
  'require-concurrent-reindex',
]);

export const squawkFinding: Rule = {
  name: 'squawk',
  severity: 'error',
  why: 'squawk, the linter for PostgreSQL migrations, finds that this locks or rewrites a table',
  *check(facts) {
    if ('unavailable' in facts.squawk) return;
    // Squawk does not know that a table is new; a text that only touches new tables is not asked about.
    const old = new Set(tablesBefore(facts));
    for (const { place, rule, message, help } of facts.squawk.findings) {
      if (!SQUAWK_RULES.has(rule) || !old.has(place)) continue;
      yield {
        place,
        message: `${message} (squawk: ${rule})`,
        instead: help ?? `see https://squawkhq.com/docs/${rule}`,
      };
    }
  },
};

/** Places of texts with a statement on a table, or on an index, that was there before the plan. */
function tablesBefore(facts: PlanFacts): string[] {
  return upStatements(facts).flatMap(({ place, node }) => {
    if ('AlterTableStmt' in node) return facts.created.has(relationKey(node.AlterTableStmt.relation)) ? [] : [place];
    if ('ReindexStmt' in node) return facts.created.has(relationKey(node.ReindexStmt.relation)) ? [] : [place];
    if ('DropStmt' in node) return facts.created.has(nameKey(node.DropStmt.objects)) ? [] : [place];
    return [];
  });
}

export const squawkMissing: Rule = {
  name: 'squawk-missing',
  severity: 'warning',
  why: 'squawk finds statements that lock or rewrite a table; without it some of them go unseen',
  *check({ squawk, raw }) {
    if (!('unavailable' in squawk)) return;
    yield {
      place: raw.find(({ direction }) => direction === 'up')?.place ?? 'migrations',
      message: `the raw SQL was not read by squawk: ${squawk.unavailable}`,
      instead:
        'install the packages with their optional ones (npm install --include=optional), or check the locks yourself',
    };
  },
};
