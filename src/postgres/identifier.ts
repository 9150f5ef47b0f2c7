import { escapeIdentifier, escapeLiteral } from 'pg';
import type { TableName } from '../plan/table-name.js';

/** Quotes one identifier, always: reserved words, capitals and spaces included. */
export function ident(name: string): string {
  return escapeIdentifier(name);
}

/** Quotes a schema-qualified name. */
export function qualified(table: TableName): string {
  return `${ident(table.schema)}.${ident(table.name)}`;
}

/** Quotes a literal, only for statements that take no bound parameters (DDL). Everything else binds its values. */
export function literal(value: string): string {
  return escapeLiteral(value);
}
