import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import type pg from 'pg';
import { startPgBouncer, type EmbeddedPgBouncer } from '../../src/embedded/pgbouncer.js';
import type { PlanInput } from '../../src/plan/schema.js';
import { Instance, type Loaded } from '../../src/pgbouncer/instance.js';
import { ident } from '../../src/postgres/identifier.js';
import type { Side } from '../../src/side.js';
import type { FaultRun } from './fault-run.js';
import { withClient } from './postgres.js';

type PlannedPooler = NonNullable<NonNullable<PlanInput['traffic']>['pgbouncer']>;

/** How long a client may wait is for the test to say. */
const PATIENCE = { client_login_timeout: '0', query_wait_timeout: '0' };

const ALIASES = { blue: 'orders_blue', green: 'orders_green' };

/** A PgBouncer, `pooler_1`, by which clients write in a FaultRun beside its writers. */
export class RunPooler {
  /** Its databases are there to be connected to when those of the run are gone. */
  #servers: readonly pg.ClientConfig[] = [];

  private constructor(
    private readonly user: string,
    private readonly pooler: EmbeddedPgBouncer,
  ) {}

  /** It leads nowhere before leadTo(). */
  static async start(): Promise<RunPooler> {
    const user = `app_${randomBytes(4).toString('hex')}`;
    const users = { [user]: 'secret' };
    return new RunPooler(
      user,
      await startPgBouncer({ databases: '[databases]\n', users, adminUsers: [user], settings: PATIENCE }),
    );
  }

  /** Of the plan's `traffic`. */
  get planned(): PlannedPooler {
    return { databases: ['orders'], instances: [{ connection: 'pooler_1', file: this.pooler.file }] };
  }

  /** Of the worker. */
  get environment(): Readonly<Record<string, string>> {
    const uri = `postgres://${this.user}:secret@127.0.0.1:${this.pooler.port}/pgbouncer`;
    return { VERDIGRIS_CONNECTION_POOLER_1: uri };
  }

  /** Leads to blue of a run that has not begun. */
  async leadTo({ own }: FaultRun): Promise<void> {
    const { blue, green } = own;
    this.#servers = [blue, green].map(({ config }) => ({ ...config, database: 'postgres' }));
    for (const server of this.#servers) {
      await withClient(server, (client) =>
        client.query(`CREATE ROLE ${ident(this.user)} SUPERUSER LOGIN PASSWORD 'secret'`),
      );
    }
    const leadsTo = { orders: blue, [ALIASES.blue]: blue, [ALIASES.green]: green };
    const entries = Object.entries(leadsTo).map(
      ([name, { port, database }]) => `${name} = host=127.0.0.1 port=${port} dbname=${database}\n`,
    );
    writeFileSync(this.pooler.file, `[databases]\n${entries.join('')}`);
    await withClient(this.#reached('pgbouncer'), (admin) => admin.query('RELOAD'));
  }

  /** A write of a client, which waits where the PgBouncer is paused. @returns the side that has taken it */
  write(withinMs: number): Promise<Side> {
    const config = { ...this.#reached('orders'), query_timeout: withinMs };
    return withClient(config, async (client) => {
      const { rows } = await client.query<{ port: number }>(
        `UPDATE public.accounts SET balance = balance WHERE id = 1 RETURNING current_setting('port')::int AS port`,
      );
      return rows[0]?.port === this.#servers[0]?.port ? 'blue' : 'green';
    });
  }

  /** What it has loaded, and whether it is paused. */
  async look({ plan }: FaultRun): Promise<Loaded> {
    const pooler = { connection: 'pooler_1', config: this.#reached('pgbouncer'), file: this.pooler.file };
    const setup = { migration: plan.name, instances: [pooler], databases: ['orders'], pauseTimeoutMs: 1_000 };
    const instance = new Instance(pooler, { ...setup, aliases: ALIASES });
    return instance.look().finally(() => instance.close());
  }

  /** After the run, whose databases are gone by then. */
  async close(): Promise<void> {
    await this.pooler.stop();
    for (const server of this.#servers) {
      await withClient(server, (client) => client.query(`DROP ROLE ${ident(this.user)}`));
    }
  }

  #reached(database: string): pg.ClientConfig {
    return { host: '127.0.0.1', port: this.pooler.port, user: this.user, password: 'secret', database };
  }
}
