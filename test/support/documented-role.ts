import { readFileSync } from 'node:fs';

/** What stands for the names of docs/connections.md. */
export interface NamesOfRole {
  readonly role: string;
  readonly password: string;
  /** The owner of the tables. */
  readonly owner: string;
  readonly database: string;
}

/** The statements of "The role" in docs/connections.md for a side, whose servers are PostgreSQL 16 or later. */
export function statementsOfRole(side: 'blue' | 'green', { role, password, owner, database }: NamesOfRole): string[] {
  const text = readFileSync(new URL('../../docs/connections.md', import.meta.url), 'utf8');
  const section = /^## The role\n([\s\S]*?)^## /m.exec(text)?.[1] ?? '';
  const [blue = '', green = ''] = [...section.matchAll(/```sql\n([\s\S]*?)```/g)].map(([, sql = '']) => sql);
  return (side === 'blue' ? blue : green)
    .replaceAll(/ *--.*$/gm, '')
    .replaceAll("'...'", `'${password}'`)
    .replaceAll(/\bverdigris\b/g, role)
    .replaceAll(/\borders\b/g, database)
    .replaceAll(/\bapp\b/g, owner)
    .split(/;\s*/)
    .filter((statement) => statement !== '');
}

/** Those that are not for the whole server: a test's two sides may be on one. */
export function ofDatabase(statements: readonly string[]): string[] {
  return statements.filter((statement) => !statement.startsWith('CREATE ROLE '));
}
