import pg from 'pg';
import { feedName } from '../../src/postgres/feed.js';
import { ident, literal } from '../../src/postgres/identifier.js';
import { withSession } from '../../src/postgres/session.js';
import { FENCE_CLOSED, FENCE_OPEN, installState } from '../../src/postgres/state.js';
import { createRouter, type Router, type RouterOptions } from '../../src/router/index.js';
import type { Side } from '../../src/side.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';

export const MIGRATION = 'shop';

const ITEM = 'CREATE TABLE item (id int PRIMARY KEY, value int NOT NULL DEFAULT 0)';

const ARM = `
  CREATE TRIGGER _verdigris_fence BEFORE INSERT OR UPDATE OR DELETE ON item
    FOR EACH STATEMENT EXECUTE FUNCTION verdigris.fence_check();
  ALTER TABLE item ENABLE ALWAYS TRIGGER _verdigris_fence`;

/** Blue and green as a run leaves them before it shifts traffic, with one table, and what a run does to them. */
export class Sides {
  readonly blue: TestDatabase;
  readonly green: TestDatabase;
  readonly #routers: Router[] = [];
  readonly #admin: Record<Side, pg.Client>;

  private constructor(blue: TestDatabase, green: TestDatabase) {
    this.blue = blue;
    this.green = green;
    this.#admin = { blue: new pg.Client(blue.config), green: new pg.Client(green.config) };
    for (const client of Object.values(this.#admin)) client.on('error', () => undefined);
  }

  /** @param own a green on a server of the test's own. */
  static async create(purpose: string, own?: TestDatabase): Promise<Sides> {
    const [blue, green] = await Promise.all([testDatabase('pg15', purpose), own ?? testDatabase('pg18', purpose)]);
    const sides = new Sides(blue, green);
    for (const side of ['blue', 'green'] as const) {
      await sides.#admin[side].connect();
      await sides.sql(side, ITEM);
    }
    return sides;
  }

  /** With ten rows, which green has from blue, and every user's reads on green. */
  static async readByAll(purpose: string): Promise<Sides> {
    const sides = await Sides.create(purpose);
    await sides.sql('blue', 'INSERT INTO item SELECT g, 0 FROM generate_series(1, 10) g');
    await sides.replicate();
    await sides.claim();
    await sides.stage(100);
    return sides;
  }

  /** The schema verdigris, an owner and a route at epoch 1 on both sides; green's fence closed. */
  async claim(): Promise<this> {
    for (const side of ['blue', 'green'] as const) {
      await withSession(asDatabase(this[side], side), { purpose: 'test' }, (session) => installState(session, side));
      await this.sql(
        side,
        `INSERT INTO verdigris.owner (run_id, migration, side) VALUES ('r', '${MIGRATION}', '${side}')`,
      );
      await this.sql(side, `INSERT INTO verdigris.route (migration) VALUES ('${MIGRATION}')`);
      await this.sql(side, ARM);
    }
    await this.setFence('green', 'closed');
    return this;
  }

  /** Everything as after claim(), at a later epoch, for the next test of a file; closes the routers of the last one. */
  async reset(): Promise<void> {
    await Promise.all(this.#routers.splice(0).map((router) => router.close()));
    for (const side of ['blue', 'green'] as const) {
      await this.sql(side, `DROP TABLE item CASCADE; ${ITEM}; ${ARM}`);
      await this.sql(
        side,
        `TRUNCATE verdigris.router;
         UPDATE verdigris.route SET epoch = epoch + 10, writes_on = 'blue', green_read_percent = 0, opening = NULL`,
      );
    }
    await this.setFence('blue', 'open');
    await this.setFence('green', 'closed');
  }

  async sql<R extends pg.QueryResultRow>(side: Side, text: string, values: unknown[] = []): Promise<R[]> {
    const { rows } = await (values.length === 0
      ? this.#admin[side].query<R>(text)
      : this.#admin[side].query<R>(text, values));
    return rows;
  }

  async setFence(side: Side, state: 'open' | 'closed'): Promise<void> {
    await this.sql(side, `SELECT setval('verdigris.fence', ${state === 'open' ? FENCE_OPEN : FENCE_CLOSED})`);
  }

  /** The share of users on green, set on blue as a run does; returns the generation. */
  async stage(percent: number): Promise<number> {
    const [row] = await this.sql<{ g: number }>(
      'blue',
      `SELECT verdigris.set_green_read_percent('${MIGRATION}', (SELECT epoch FROM verdigris.route), ${percent})::int AS g`,
    );
    return row?.g ?? 0;
  }

  /** The decision of a promotion on the side that gives writes away, and its closed fence. */
  async decide(to: Side): Promise<void> {
    const from = to === 'green' ? 'blue' : 'green';
    await this.sql(
      from,
      `BEGIN;
       SELECT verdigris.decide('${MIGRATION}', (SELECT epoch FROM verdigris.route), '${to}');
       SELECT setval('verdigris.fence', ${FENCE_CLOSED});
       COMMIT`,
    );
  }

  async open(side: Side): Promise<void> {
    await this.sql(side, `SELECT verdigris.open_fence('${MIGRATION}', (SELECT epoch + 1 FROM verdigris.route))`);
    await this.sql(side, 'NOTIFY verdigris_route');
  }

  /** Logical replication from blue to green, as a run makes it. */
  async replicate(settings = ''): Promise<string> {
    const feed = feedName(MIGRATION, 'to_green');
    const name = `${feed}_${this.blue.database.slice(-8)}`;
    await this.sql('blue', `CREATE PUBLICATION ${ident(name)} FOR TABLE item`);
    await this.sql('blue', `SELECT pg_create_logical_replication_slot(${literal(name)}, 'pgoutput')`);
    await this.sql(
      'green',
      `CREATE SUBSCRIPTION ${ident(name)} CONNECTION ${literal(asDatabase(this.blue, 'blue').peerConninfo)}
         PUBLICATION ${ident(name)} WITH (create_slot = false, slot_name = ${literal(name)} ${settings})`,
    );
    for (;;) {
      const [row] = await this.sql<{ n: number }>(
        'green',
        `SELECT count(*)::int AS n FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
          WHERE s.subname = ${literal(name)} AND r.srsubstate <> 'r'`,
      );
      if (row?.n === 0) return name;
      await pause(50);
    }
  }

  async router(options: Partial<RouterOptions> = {}): Promise<Router> {
    const router = createRouter({ migration: MIGRATION, blue: this.blue.config, green: this.green.config, ...options });
    this.#routers.push(router);
    await router.ready();
    return router;
  }

  async drop(): Promise<void> {
    await Promise.all(this.#routers.map((router) => router.close()));
    await Promise.all(Object.values(this.#admin).map((client) => client.end()));
    await this.green.drop();
    await this.blue.drop();
  }
}

/** Waits until a condition holds; returns the milliseconds that it took. */
export async function until(holds: () => boolean | Promise<boolean>, withinMs = 30_000): Promise<number> {
  const started = performance.now();
  while (!(await holds())) {
    if (performance.now() - started > withinMs)
      throw new Error(`still not so after ${withinMs} ms: ${holds.toString()}`);
    await pause(2);
  }
  return performance.now() - started;
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The value of a metric with the given labels, 0 when there is none. */
export async function metric(router: Router, name: string, labels: Record<string, string> = {}): Promise<number> {
  const found = (await router.metrics.getMetricsAsJSON()).find((one) => one.name === name);
  const values = found?.values.filter((value) => Object.entries(labels).every(([k, v]) => value.labels[k] === v)) ?? [];
  return values.reduce((sum, value) => sum + Number(value.value), 0);
}
