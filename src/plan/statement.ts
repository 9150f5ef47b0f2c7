import type { AlterTableCmd, Node } from 'libpg-query';
import type { PlanFacts } from './facts.js';
import { relationKey } from './raw-sql.js';
import type { Statement } from './sql-tree.js';
import { isObject, namesOf, partsOf } from './sql-tree.js';

/** A statement of an `up`, with its place. */
export interface UpStatement extends Statement {
  readonly place: string;
  /** How many statements the same text has. */
  readonly together: number;
}

/** The statements of every `up`, in the order of the plan. */
export function upStatements({ raw }: PlanFacts): UpStatement[] {
  return raw
    .filter(({ direction }) => direction === 'up')
    .flatMap(({ place, statements }) => statements.map((s) => ({ ...s, place, together: statements.length })));
}

/** One part of an ALTER TABLE in an `up`, on a table that the plan did not make itself. */
export interface TableChange {
  readonly place: string;
  readonly text: string;
  /** `schema.name` */
  readonly table: string;
  readonly change: AlterTableCmd;
}

/** Every change that an `up` makes to a table that was there before the plan. */
export function tableChanges(facts: PlanFacts): TableChange[] {
  return upStatements(facts).flatMap(({ node, place, text }) => {
    if (!('AlterTableStmt' in node)) return [];
    const table = relationKey(node.AlterTableStmt.relation);
    if (facts.created.has(table)) return [];
    return (node.AlterTableStmt.cmds ?? []).flatMap((cmd) =>
      'AlterTableCmd' in cmd ? [{ place, text, table, change: cmd.AlterTableCmd }] : [],
    );
  });
}

/** A statement as a message shows it: one line, cut. */
export function short(text: string): string {
  const line = text.replaceAll(/\s+/g, ' ').trim();
  return line.length <= 70 ? line : `${line.slice(0, 67)}…`;
}

/** Schemas in which a statement changes something. What it only reads, such as verdigris.try_jsonb, does not count. */
export function changedSchemas(node: Node): string[] {
  if ('SelectStmt' in node && node.SelectStmt.intoClause === undefined) return changedByQuery(node);
  if ('DropStmt' in node) return schemasOf(node.DropStmt.removeType, node.DropStmt.objects ?? []);
  if ('AlterOwnerStmt' in node) {
    const { objectType, object } = node.AlterOwnerStmt;
    return schemasOf(objectType, object === undefined ? [] : [object]);
  }
  if ('CreateSchemaStmt' in node) return [node.CreateSchemaStmt.schemaname ?? ''];
  if ('CreateFunctionStmt' in node) return namesOf(node.CreateFunctionStmt.funcname).slice(0, -1);
  if ('GrantStmt' in node) return [];
  const target = targetOf(node);
  return [...(target === undefined ? [] : schemaOf(target)), ...changedByQuery(node)];
}

/** The schemas of objects of a kind, or the objects themselves where they are schemas. */
function schemasOf(kind: string | undefined, objects: readonly Node[]): string[] {
  const names = objects.map(qualifiedName);
  return kind === 'OBJECT_SCHEMA' ? names.flat() : names.flatMap((parts) => parts.slice(0, -1));
}

/** What the statement is about, where it is a relation. */
function targetOf(node: Node): unknown {
  const [statement] = Object.values(node);
  if (!isObject(statement)) return undefined;
  return statement['relation'] ?? statement['view'] ?? statement['sequence'];
}

/** Data-modifying statements, in WITH clauses too. */
function changedByQuery(node: Node): string[] {
  return [...partsOf(node)].flatMap(({ type, fields }) =>
    ['InsertStmt', 'UpdateStmt', 'DeleteStmt', 'MergeStmt'].includes(type) ? schemaOf(fields['relation']) : [],
  );
}

function schemaOf(relation: unknown): string[] {
  const schema = isObject(relation) ? relation['schemaname'] : undefined;
  return typeof schema === 'string' ? [schema] : [];
}

/** The name of an object of a DROP, in its parts. */
export function qualifiedName(object: Node): string[] {
  if ('List' in object) return namesOf(object.List.items);
  if ('TypeName' in object) return namesOf(object.TypeName.names);
  if ('ObjectWithArgs' in object) return namesOf(object.ObjectWithArgs.objname);
  return namesOf([object]);
}
