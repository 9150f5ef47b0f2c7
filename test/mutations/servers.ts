import pg from 'pg';
import {
  SERVERS_VARIABLE,
  startServers,
  teardown,
  type ProvidedPostgres,
  type RunningServers,
} from '../support/global-setup.js';

/** The servers that all runs share, since starting them takes longer than most tests. */
export class SharedServers {
  #running: RunningServers | undefined;

  /** What a run of vitest needs to know them; starts them when they don't run. */
  async environment(): Promise<Record<string, string>> {
    this.#running ??= await startServers();
    return { [SERVERS_VARIABLE]: JSON.stringify(this.#running) };
  }

  /** A mutant may have left something that the next test would trip over: then there are new servers for it. */
  async freshen(): Promise<void> {
    if (this.#running !== undefined && !(await isClean(this.#running))) await this.stop();
  }

  async stop(): Promise<void> {
    this.#running = undefined;
    await teardown();
  }
}

async function isClean({ pg15, pg18 }: RunningServers): Promise<boolean> {
  const left = await Promise.all([pg15, pg18].map(countLeft));
  return left.every((rows) => rows === 0);
}

async function countLeft({ port, password }: ProvidedPostgres): Promise<number | null> {
  const client = new pg.Client({ host: '127.0.0.1', port, password, user: 'postgres', database: 'postgres' });
  await client.connect();
  try {
    const { rowCount } = await client.query(
      `SELECT FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'
        UNION ALL SELECT FROM pg_replication_slots UNION ALL SELECT FROM pg_prepared_xacts`,
    );
    return rowCount;
  } finally {
    await client.end();
  }
}
