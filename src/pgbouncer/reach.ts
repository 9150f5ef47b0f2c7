import pg from 'pg';
import { VerdigrisError } from '../errors.js';
import { identityOf } from '../postgres/identity.js';
import type { SeenAs } from './hba-rules.js';
import type { PgBouncer } from './pgbouncer.js';

/** It takes no more clients, which says nothing of the way to the database. Its console is open all the same. */
export class PoolerFull extends VerdigrisError {}

/**
 * Which database a client of the entry would be in: asked through PgBouncer, as the user of its admin console.
 *
 * @throws VerdigrisError ConnectionFailed, in the words of PgBouncer or of the server behind it; PoolerFull
 */
export function identityThrough(pooler: PgBouncer, entry: string, withinMs = 5_000): Promise<string> {
  return askThrough(pooler, entry, withinMs, identityOf);
}

/**
 * How the server that the entry leads to sees the connections of this PgBouncer.
 *
 * @throws VerdigrisError ConnectionFailed, as identityThrough() does
 */
export function seenThrough(pooler: PgBouncer, entry: string, withinMs = 5_000): Promise<SeenAs> {
  return askThrough(pooler, entry, withinMs, async (client) => {
    const { rows } = await client.query<SeenAs>(
      `SELECT host(inet_client_addr()) AS address, current_database()::text AS database,
              coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS ssl`,
    );
    const [row] = rows;
    if (row === undefined) throw new Error('a SELECT without FROM gave no row');
    return row;
  });
}

async function askThrough<T>(
  pooler: PgBouncer,
  entry: string,
  withinMs: number,
  ask: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({
    ...pooler.config,
    database: entry,
    connectionTimeoutMillis: withinMs,
    query_timeout: withinMs,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    return await ask(client);
  } catch (error) {
    throw notThrough(pooler, entry, error);
  } finally {
    void client.end().catch(() => undefined);
  }
}

function notThrough({ connection }: PgBouncer, entry: string, cause: unknown): VerdigrisError {
  const why = cause instanceof Error ? cause.message : String(cause);
  const failed = {
    ...({ type: 'ConnectionFailed', retryable: true, cause } as const),
    message: `nobody gets through PgBouncer "${connection}" to its entry "${entry}": ${why}`,
  };
  const limit = limitOfClients(cause);
  if (limit !== undefined) {
    const nextStep = `raise ${limit} of that PgBouncer above what its clients open together, or let some of them leave`;
    return new PoolerFull({ ...failed, nextStep });
  }
  const nextStep = `see that the entry leads to the database as that machine reaches it, that pg_hba.conf lets it in, and that the user of the console is a role there, with the same password`;
  return new VerdigrisError({ ...failed, nextStep });
}

/** The limit of clients that PgBouncer names where it turns one away: max_client_conn, and from 1.24 on those of an entry or user. */
function limitOfClients(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError && error.code === '08P01'
    ? /\((max_(?:db_|user_)?client_conn(?:ections)?)\)/.exec(error.message)?.[1]
    : undefined;
}
