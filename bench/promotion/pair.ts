import type pg from 'pg';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import type { LifeCycle } from '../../src/embedded/life-cycle.js';
import { ident, literal } from '../../src/postgres/identifier.js';
import type { Databases } from '../../src/postgres/session.js';
import type { Side } from '../../src/side.js';
import { SERVER_SETTINGS, withClient, type Servers } from '../data/servers.js';
import { SHOP_ROLE, SHOP_ROWS, SHOP_SCHEMA } from './shop.js';

/** Two databases of one contestant's own, with the shop's tables: blue has the rows. */
export interface Pair {
  /** Of the database, on both servers. */
  readonly name: string;
  readonly databases: Databases;
  /** Connection URI of the application's role. */
  readonly applicationUri: (side: Side) => string;
}

/** Both servers, with the application's role. */
export async function startPairServers(lifeCycle: LifeCycle, green: 15 | 18): Promise<Servers> {
  const start = async (name: string, version: 15 | 18): Promise<EmbeddedPostgres> => {
    const server = await lifeCycle.start(`${name}, PostgreSQL ${version}`, () =>
      startPostgres({ version, name: `bench-${name.toLowerCase()}`, settings: SERVER_SETTINGS }),
    );
    return server;
  };
  const servers = { blue: await start('Blue', 15), green: await start('Green', green) };
  for (const server of [servers.blue, servers.green]) {
    // One password for both sides, as an application has it, and a pooler.
    await withClient(server.uri(), (client) =>
      client.query(`CREATE ROLE ${SHOP_ROLE} LOGIN PASSWORD ${literal(servers.blue.password)}`),
    );
  }
  return servers;
}

export async function createPair(servers: Servers, name: string): Promise<Pair> {
  const database = `promotion_${name}`;
  for (const side of ['blue', 'green'] as const) {
    const server = servers[side];
    await withClient(server.uri(), (client) => client.query(`CREATE DATABASE ${ident(database)} TEMPLATE template0`));
    await withClient(server.uri(database), async (client) => {
      await client.query(SHOP_SCHEMA);
      if (side === 'blue') await client.query(`${SHOP_ROWS} ANALYZE`);
    });
  }
  const one = (side: Side): Databases[Side] => {
    const { port, password } = servers[side];
    return {
      side,
      connection: side,
      config: { host: '127.0.0.1', port, user: 'postgres', password, database },
      peerConninfo: `host=127.0.0.1 port=${port} user=postgres password=${password} dbname=${database}`,
    };
  };
  return {
    name: database,
    databases: { blue: one('blue'), green: one('green') },
    applicationUri: (side) =>
      `postgres://${SHOP_ROLE}:${servers.blue.password}@127.0.0.1:${servers[side].port}/${database}`,
  };
}

/** Everything that is written by hand or in a recovery would fall into a measurement: a checkpoint comes before. */
export async function checkpoint(servers: Servers): Promise<void> {
  for (const server of [servers.blue, servers.green]) {
    await withClient(server.uri(), (client: pg.Client) => client.query('CHECKPOINT'));
  }
}
