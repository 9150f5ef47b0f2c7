import type pg from 'pg';

/** What tells one database from any other, its physical copy included, and may be asked by every role. */
const IDENTITY = `
  SELECT pg_catalog.concat_ws('/', extract(epoch FROM pg_catalog.pg_postmaster_start_time()),
                              (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())) AS identity`;

/** Which database a connection is in. */
export async function identityOf(client: pg.Client): Promise<string> {
  const { rows } = await client.query<{ identity: string }>(IDENTITY);
  const identity = rows[0]?.identity;
  if (identity === undefined) throw new Error('the question who is there was not answered');
  return identity;
}
