import pg from 'pg';
import { VerdigrisError } from '../errors.js';
import { identityOf } from '../postgres/identity.js';
import type { PgBouncer } from './pgbouncer.js';

/**
 * Which database a client of the entry would be in: asked through PgBouncer, as the user of its admin console.
 *
 * @throws VerdigrisError ConnectionFailed, in the words of PgBouncer or of the server behind it
 */
export async function identityThrough(pooler: PgBouncer, entry: string, withinMs = 5_000): Promise<string> {
  const client = new pg.Client({
    ...pooler.config,
    database: entry,
    connectionTimeoutMillis: withinMs,
    query_timeout: withinMs,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    return await identityOf(client);
  } catch (error) {
    throw new VerdigrisError({
      type: 'ConnectionFailed',
      message: `nobody gets through PgBouncer "${pooler.connection}" to its entry "${entry}": ${error instanceof Error ? error.message : String(error)}`,
      nextStep: `see that the entry leads to the database as that machine reaches it, that pg_hba.conf lets it in, and that the user of the console is a role there, with the same password`,
      retryable: true,
      cause: error,
    });
  } finally {
    void client.end().catch(() => undefined);
  }
}
