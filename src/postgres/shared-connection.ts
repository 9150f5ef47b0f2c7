import pg from 'pg';
import { VerdigrisError } from '../errors.js';
import { connectionVariable, type Database } from './session.js';

/*
 * A pooler in transaction mode gives a connection of the server to one client after the other, as it is. What a session of
 * ours sets there would be found by the application's next statement, and our locks would be anybody's. A pooler in session
 * mode, and a proxy, keep a connection for each client: all that a session needs. Both are noticed by the process that the
 * server has: it is another one than was named at the login.
 */

/** Clients of ours that were seen to have a connection of the server each: asked once. */
const kept = new WeakSet<Database>();

/** A pool that is full keeps its clients waiting. */
const WITHIN_MS = 5_000;

/**
 * Who asks next. In turn, the second gets what the first has let go; twice in a row, the first gets another one where those that
 * rested longest are handed out first.
 */
const TURNS = ['ours', 'ours', 'others', 'others', 'ours', 'others'] as const;

/**
 * To be asked of a client that is not at the server itself, before it sets anything.
 *
 * @throws VerdigrisError ConnectionFailed when clients share the server's connections; the error of a second connection.
 */
export async function refuseSharedConnection(client: pg.Client, database: Database): Promise<void> {
  if (kept.has(database)) return;
  const other = new pg.Client({
    ...database.config,
    application_name: 'verdigris pooler?',
    ...{ connectionTimeoutMillis: WITHIN_MS, query_timeout: WITHIN_MS },
  });
  other.on('error', () => undefined);
  try {
    await other.connect();
    const clients = { ours: client, others: other };
    const seen = { ours: new Set<number | undefined>(), others: new Set<number | undefined>() };
    for (const who of TURNS) seen[who].add(await processOf(clients[who], ASK));
    const { ours, others } = seen;
    if (ours.size > 1 || others.size > 1 || [...ours].some((pid) => others.has(pid))) throw isShared(database);
    kept.add(database);
  } finally {
    other.end().catch(() => undefined);
  }
}

const ASK = 'SELECT pg_catalog.pg_backend_pid() AS pid';

async function processOf(client: pg.Client, message: string): Promise<number | undefined> {
  return (await lastRow<{ pid: number }>(client, message))?.pid;
}

/** The first row of a message's last answer; undefined when there is none. */
export async function lastRow<Row extends pg.QueryResultRow>(
  client: pg.Client,
  message: string,
): Promise<Row | undefined> {
  const answers: unknown = await client.query(message);
  const last = (Array.isArray(answers) ? answers.at(-1) : answers) as pg.QueryResult<Row>;
  return last.rows[0];
}

function isShared({ side, connection }: Database): VerdigrisError {
  return new VerdigrisError({
    type: 'ConnectionFailed',
    message: `${side}: the connection "${connection}" leads through a pooler that gives one connection of the server to several clients (such as PgBouncer in transaction mode): what our sessions set would be found by the application's`,
    nextStep: `write the address of the server itself into VERDIGRIS_CONNECTION_${connectionVariable(connection)} where the worker runs, and restart it; applications may go on through the pooler`,
  });
}
