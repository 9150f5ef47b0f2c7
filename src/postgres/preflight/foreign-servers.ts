import pg from 'pg';
import { USER_SCHEMA } from '../catalog.js';
import { notOfExtension } from '../schema-copy/catalog-description.js';
import type { Database, Session } from '../session.js';
import { addressesOfConninfo, isLoopback, LIBPQ_PORT, type Addresses } from './peer-address.js';
import { NEW_GREEN, type Found, type PairCheck, type PairContext } from './check.js';
import { listed } from './finding.js';

/**
 * Servers of foreign data wrappers and their user mappings, which dblink uses, too. Green gets them as they are: one that leads
 * to blue leads there from green as well, and pg_dump writes a mapping without the options that its user may not see. Options
 * are never told: they may be secrets.
 */
export const foreignServers: PairCheck = {
  name: 'foreign-servers',
  run: async (pair) => {
    const { blue } = pair;
    const servers = await readServers(blue.session);
    const toBlue = await leadingToBlue(pair, servers);
    const others = servers.filter((server) => !toBlue.includes(server));
    const isCopied = NEW_GREEN.includes(blue.plan.bootstrap.method);
    const mappings = isCopied ? await readHiddenMappings(blue.session) : [];
    const found = [
      ...about(
        toBlue.map(({ name }) => name),
        LEADS_TO_BLUE,
      ),
      ...about(
        others.map(({ name }) => name),
        SAME_SOURCE,
      ),
      ...about(mappings, WITHOUT_OPTIONS),
      ...about(await readCallersOfDblink(blue.session), CALLS_DBLINK),
    ];
    return found.map((one) => ({ side: 'blue' as const, ...one }));
  },
};

function about(objects: readonly string[], finding: Omit<Found, 'object'>): Found[] {
  return objects.length === 0 ? [] : [{ ...finding, object: listed(objects) }];
}

const LEADS_TO_BLUE: Omit<Found, 'object'> = {
  severity: 'warning',
  message:
    'these foreign servers lead to blue itself (by host, port and dbname), and from green they do so, too: after the promotion what is written through them is refused there (25006), as by a trigger that writes its log with dblink',
  remedy:
    'ALTER SERVER ... OPTIONS (SET host ..., SET port ..., SET dbname ...) on green, so that they lead to green, once the schema has been copied (with "standby": once green is promoted) and before the writes move',
};

const SAME_SOURCE: Omit<Found, 'object'> = {
  severity: 'warning',
  message: 'green gets these foreign servers as they are, and reads and writes the same sources',
  remedy: "See that green's server reaches them (firewall, pg_hba.conf there, files), and that it may",
};

const WITHOUT_OPTIONS: Omit<Found, 'object'> = {
  severity: 'warning',
  message:
    "blue's user may not see the options of these user mappings, so they come to green without user and password: what reads through them fails there, a materialized view already while the schema is completed",
  remedy:
    'ALTER USER MAPPING FOR ... SERVER ... OPTIONS (ADD user ..., ADD password ...) on green while the rows are copied; or let the connection of blue log in as a superuser',
};

const CALLS_DBLINK: Omit<Found, 'object'> = {
  severity: 'info',
  message: 'these functions call dblink: from green they connect to where they do from blue',
  remedy:
    'See that none of them connects to blue itself, which refuses writes after the promotion, and that green reaches the others',
};

interface ForeignServer {
  readonly name: string;
  /** As libpq is given them; null where the server has none of that name. */
  readonly host: string | null;
  readonly hostaddr: string | null;
  readonly port: string | null;
  readonly dbname: string | null;
}

async function readServers(blue: Session): Promise<ForeignServer[]> {
  const option = (name: string): string =>
    `(SELECT option_value FROM pg_options_to_table(s.srvoptions) WHERE option_name = '${name}') AS ${name}`;
  const { rows } = await blue.query<ForeignServer>(
    `SELECT quote_ident(s.srvname) AS name, ${['host', 'hostaddr', 'port', 'dbname'].map(option).join(', ')}
       FROM pg_foreign_server s WHERE ${notOfExtension('pg_foreign_server', 's.oid')} ORDER BY 1`,
  );
  return rows;
}

/** By what they say: another name of the same host is not seen. */
async function leadingToBlue({ blue, green }: PairContext, servers: ForeignServer[]): Promise<ForeignServer[]> {
  if (servers.length === 0) return [];
  const { rows } = await blue.session.query<{ database: string; address: string | null; port: string }>(
    `SELECT current_database() AS database, host(inet_server_addr()) AS address, current_setting('port') AS port`,
  );
  const own = rows[0];
  const addresses = addressesOf(blue.database);
  // On another machine than blue's, localhost is another one.
  const isOneMachine = addressesOf(green.database).hosts.some(isLoopback);
  const hosts = [...addresses.hosts, own?.address ?? ''].filter((host) => isOneMachine || !isLoopback(host));
  const ports = [...addresses.ports, own?.port ?? ''];
  return servers.filter(
    ({ host, hostaddr, port, dbname }) =>
      dbname === own?.database &&
      (port ?? LIBPQ_PORT).split(',').some((one) => ports.includes(one.trim())) &&
      [host, hostaddr].some((list) => list?.split(',').some((one) => hosts.includes(one.trim().toLowerCase()))),
  );
}

/** By which the worker and the other server reach a database. */
function addressesOf({ config, peerConninfo }: Database): Addresses {
  const client = new pg.Client(config);
  const { hosts, ports } = addressesOfConninfo(peerConninfo);
  return {
    hosts: [client.host.toLowerCase(), ...hosts].filter((host) => host !== ''),
    ports: [String(client.port), ...ports],
  };
}

/** Whose options the view of PostgreSQL does not show to this user; that they are none is not known either. */
async function readHiddenMappings(blue: Session): Promise<string[]> {
  const { rows } = await blue.query<{ mapping: string }>(
    `SELECT CASE WHEN m.umuser = 0 THEN 'PUBLIC' ELSE quote_ident(m.usename) END || ' on ' || quote_ident(m.srvname) AS mapping
       FROM pg_user_mappings m
       JOIN pg_foreign_server s ON s.oid = m.srvid
       JOIN pg_roles me ON me.rolname = current_user
      WHERE ${notOfExtension('pg_foreign_server', 's.oid')}
        AND NOT (me.rolsuper
                 OR m.umuser = 0 AND pg_has_role(s.srvowner, 'USAGE')
                 OR m.umuser = me.oid AND (pg_has_role(s.srvowner, 'USAGE') OR has_server_privilege(s.oid, 'USAGE')))
      ORDER BY 1`,
  );
  return rows.map(({ mapping }) => mapping);
}

async function readCallersOfDblink(blue: Session): Promise<string[]> {
  const { rows } = await blue.query<{ name: string }>(
    `SELECT p.oid::regprocedure::text AS name
       FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE ${USER_SCHEMA} AND ${notOfExtension('pg_proc', 'p.oid')}
        AND coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) ~* '\\mdblink(_\\w+)?\\s*\\('
      ORDER BY 1`,
  );
  return rows.map(({ name }) => name);
}
