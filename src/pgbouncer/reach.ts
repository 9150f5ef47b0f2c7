import pg from 'pg';
import { VerdigrisError } from '../errors.js';
import type { Session } from '../postgres/session.js';
import type { PgBouncer } from './pgbouncer.js';

/** What tells one database from any other, its physical copy included, and may be asked by every role. */
const IDENTITY = `
  SELECT pg_catalog.concat_ws('/', extract(epoch FROM pg_catalog.pg_postmaster_start_time()),
                              (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())) AS identity`;

/** Which database a session of ours is in. */
export async function identityOf(session: Session): Promise<string> {
  return oneIdentity(await session.query<{ identity: string }>(IDENTITY));
}

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
    return oneIdentity(await client.query<{ identity: string }>(IDENTITY));
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

function oneIdentity({ rows }: pg.QueryResult<{ identity: string }>): string {
  const identity = rows[0]?.identity;
  if (identity === undefined) throw new Error('the question who is there was not answered');
  return identity;
}
