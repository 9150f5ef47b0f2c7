import type pg from 'pg';
import { ident } from '../identifier.js';
import type { Session } from '../session.js';

/** Of all sessions together, so that a session never meets one name with two texts. */
let names = 0;

/**
 * Statements that a session runs again and again with other values: the server parses and plans each once.
 */
export class RepeatedStatements {
  private readonly known = new Map<string, string>();
  private readonly prepared = new Set<string>();

  constructor(private readonly session: Session) {}

  async query<Row extends pg.QueryResultRow>(text: string, values: readonly string[]): Promise<pg.QueryResult<Row>> {
    const name = this.known.get(text) ?? `verdigris_${++names}`;
    this.known.set(text, name);
    const result = await this.session.query<Row>({ name, text, values: [...values] });
    this.prepared.add(name);
    return result;
  }

  /** Frees what the server keeps of them: a session that goes on to the next of thousands of tables must not keep it. */
  async forget(): Promise<void> {
    for (const name of this.prepared) await this.session.query(`DEALLOCATE ${ident(name)}`);
    this.prepared.clear();
    this.known.clear();
  }
}
