import type { Node } from 'libpg-query';
import { relationKey } from '../raw-sql.js';
import type { Rule } from '../rule.js';
import { isObject, namesOf, partsOf } from '../sql-tree.js';
import { qualifiedName, short, tableChanges, upStatements } from '../statement.js';

/** Rules on what raw SQL may do at all. */

export const sqlSyntax: Rule = {
  name: 'sql-syntax',
  severity: 'error',
  why: 'PostgreSQL would refuse it in the middle of the run; a "down" that fails leaves the step behind after a rollback',
  *check({ raw }) {
    for (const { place, error, statements } of raw) {
      if (error !== undefined) yield { place, message: error, instead: 'correct the SQL; PostgreSQL 18 reads it' };
      else if (statements.length === 0) {
        yield { place, message: 'there is no statement in it', instead: 'write the SQL, or take the step out' };
      }
    }
  },
};

export const transactionControl: Rule = {
  name: 'transaction-control',
  severity: 'error',
  why: 'the step and the note that it is done are one transaction: one that is ended inside leaves the step half done, or done twice',
  *check({ raw }) {
    for (const { place, statements } of raw) {
      const found = statements.find(({ node }) => 'TransactionStmt' in node);
      if (found === undefined) continue;
      yield {
        place,
        message: `it contains ${short(found.text)}`,
        instead: 'leave BEGIN, COMMIT, ROLLBACK and SAVEPOINT out',
      };
    }
  },
};

const SERVER_WIDE = new Set([
  'AlterDatabaseStmt',
  'AlterDatabaseSetStmt',
  'AlterRoleSetStmt',
  'AlterRoleStmt',
  'AlterSystemStmt',
  'CreateRoleStmt',
  'CreatedbStmt',
  'CreateTableSpaceStmt',
  'DropOwnedStmt',
  'DropRoleStmt',
  'DropTableSpaceStmt',
  'DropdbStmt',
  'ReassignOwnedStmt',
]);

/** Whose owner is not a matter of this database's objects alone, or of replication. */
const OWNED_BEYOND = new Set(['OBJECT_DATABASE', 'OBJECT_PUBLICATION', 'OBJECT_SUBSCRIPTION', 'OBJECT_TABLESPACE']);

function isServerWide(node: Node): boolean {
  if ('AlterOwnerStmt' in node) return OWNED_BEYOND.has(node.AlterOwnerStmt.objectType ?? '');
  return Object.keys(node).some((kind) => SERVER_WIDE.has(kind));
}

export const serverWide: Rule = {
  name: 'server-wide',
  severity: 'error',
  why: 'a step belongs to the tables of this migration; what concerns the server, its roles or whole databases can not be undone by it',
  *check({ raw }) {
    for (const { place, statements } of raw) {
      for (const { node, text } of statements) {
        if (!isServerWide(node)) continue;
        yield {
          place,
          message: `"${short(text)}" concerns more than this database's objects`,
          instead: 'do it by hand, before the run or after it',
        };
      }
    }
  },
};

export const changesRows: Rule = {
  name: 'changes-rows',
  severity: 'error',
  why: 'green would have other rows than blue: the verification finds them and the run stops, or replication stops at a row that is not there',
  *check(facts) {
    for (const { place, node, text } of upStatements(facts)) {
      const changed = changedTables(node).filter((table) => !facts.created.has(table));
      if (changed[0] === undefined) continue;
      yield {
        place,
        message: `"${short(text)}" changes rows of ${changed.join(', ')}`,
        instead:
          'let the application change the rows on blue, or compute new columns by "up" of addColumn and changeType',
      };
    }
  },
};

/** Tables whose rows a statement changes, in WITH clauses too. */
function changedTables(node: Node): string[] {
  if ('TruncateStmt' in node)
    return (node.TruncateStmt.relations ?? []).map((r) => ('RangeVar' in r ? relationKey(r.RangeVar) : ''));
  if ('CopyStmt' in node) return node.CopyStmt.is_from === true ? [relationKey(node.CopyStmt.relation)] : [];
  // What the body of a function or a rule would do later is not done by the statement itself.
  if ('CreateFunctionStmt' in node || 'RuleStmt' in node) return [];
  return [...partsOf(node)].flatMap(({ type, fields }) =>
    ['InsertStmt', 'UpdateStmt', 'DeleteStmt', 'MergeStmt'].includes(type) ? [relationKey(fields['relation'])] : [],
  );
}

const REPLICATION = new Set([
  'AlterPublicationStmt',
  'AlterSubscriptionStmt',
  'CreatePublicationStmt',
  'CreateSubscriptionStmt',
  'DropSubscriptionStmt',
]);

const TRIGGERS_AND_IDENTITY =
  /^AT_(ReplicaIdentity|DisableTrig|DisableTrigAll|DisableTrigUser|EnableReplicaTrig|DisableRule|AttachPartition|DetachPartition|AddInherit|DropInherit)$/;

export const touchesReplication: Rule = {
  name: 'touches-replication',
  severity: 'error',
  why: 'replication and fence are in the hands of the run: rows would be lost without an error',
  *check(facts) {
    const instead = 'leave it to Verdigris, or do it before the run on blue';
    for (const { place, node, text } of upStatements(facts)) {
      const drops = 'DropStmt' in node && node.DropStmt.removeType === 'OBJECT_PUBLICATION';
      const sets = 'VariableSetStmt' in node && /^session_replication_role$/.test(node.VariableSetStmt.name ?? '');
      if (drops || sets || Object.keys(node).some((kind) => REPLICATION.has(kind))) {
        yield { place, message: `"${short(text)}" interferes with replication`, instead };
      }
    }
    for (const { place, text, change } of tableChanges(facts)) {
      if (!TRIGGERS_AND_IDENTITY.test(change.subtype ?? '')) continue;
      yield { place, message: `"${short(text)}" changes what is replicated, or how`, instead };
    }
  },
};

export const rawAddColumn: Rule = {
  name: 'column-in-raw-sql',
  severity: 'warning',
  why: 'Verdigris does not know the column: it is not filled for rows that are there, not verified, and a step after it can not be checked against it; and once green serves the feed to blue leaves it out, and a rollback goes on without what is in it and asks for no loss',
  *check(facts) {
    for (const { place, table, change } of tableChanges(facts)) {
      if (change.subtype !== 'AT_AddColumn') continue;
      const name = change.def !== undefined && 'ColumnDef' in change.def ? (change.def.ColumnDef.colname ?? '') : '';
      yield {
        place,
        message: `it adds the column "${name}" to ${table}: what the application writes into it on green has no way back`,
        instead: `write { "addColumn": { "table": "${table}", "column": "${name}", "type": "…" } }; with a "down", what is written into it comes back to a column of blue`,
      };
    }
  },
};

export const opaqueSql: Rule = {
  name: 'opaque-sql',
  severity: 'warning',
  why: 'what a DO block or a procedure does is only known when it runs: no rule has looked at it',
  *check(facts) {
    for (const { place, node, text } of upStatements(facts)) {
      if (!('DoStmt' in node) && !('CallStmt' in node)) continue;
      yield { place, message: `"${short(text)}" can't be checked`, instead: 'write the statements themselves' };
    }
  },
};

export const unqualifiedName: Rule = {
  name: 'unqualified-name',
  severity: 'warning',
  why: 'the name is looked up in the search_path of the role by which the worker reaches green: another role, or a setting that was not copied, and it is another object or none',
  *check({ raw }) {
    for (const { place, statements } of raw) {
      for (const { node } of statements) {
        const name = unqualifiedNames(node)[0];
        if (name === undefined) continue;
        yield { place, message: `"${name}" has no schema`, instead: `write public.${name}` };
      }
    }
  },
};

function unqualifiedNames(node: Node): string[] {
  const parts = [...partsOf(node)];
  const queries = new Set(
    parts.flatMap(({ type, fields }) => (type === 'CommonTableExpr' ? [String(fields['ctename'])] : [])),
  );
  const relations = parts.flatMap(({ type, fields }) =>
    type === 'RangeVar' && fields['schemaname'] === undefined ? [String(fields['relname'])] : [],
  );
  return [...ownName(node), ...relations.filter((name) => !queries.has(name))];
}

/** The name of what is made or dropped, where it is not a relation. */
function ownName(node: Node): string[] {
  const alone = (names: readonly string[]): string[] => (names.length === 1 ? [...names] : []);
  if ('DropStmt' in node) {
    const global = [
      'OBJECT_SCHEMA',
      'OBJECT_EXTENSION',
      'OBJECT_PUBLICATION',
      'OBJECT_TRIGGER',
      'OBJECT_POLICY',
      'OBJECT_RULE',
      'OBJECT_CAST',
    ];
    return global.includes(node.DropStmt.removeType ?? '')
      ? []
      : (node.DropStmt.objects ?? []).map(qualifiedName).flatMap(alone);
  }
  const [statement] = Object.values(node);
  if (!isObject(statement)) return [];
  return ['CreateFunctionStmt', 'CreateEnumStmt', 'CreateDomainStmt', 'AlterEnumStmt'].some((kind) => kind in node)
    ? alone(namesOf(statement['funcname'] ?? statement['typeName'] ?? statement['domainname']))
    : [];
}
