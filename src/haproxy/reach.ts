import { lookup } from 'node:dns/promises';
import { networkInterfaces } from 'node:os';
import pg from 'pg';
import { reasonOf } from '../failure-text.js';
import { identityOf } from '../postgres/identity.js';
import type { Database, Databases, Session } from '../postgres/session.js';
import { withSession } from '../postgres/session.js';
import { otherSide, type Side } from '../side.js';
import type { RuntimeAddress } from './haproxy.js';
import type { ShownServer } from './shown.js';

/** What tells a server from others. A physical standby has the cluster of its primary, and is another process. */
interface Whoever {
  /** Of the running process, and of the database in it. */
  readonly identity: string;
  /** Of the cluster; undefined where the role may not ask. */
  readonly cluster: string | undefined;
}

/** Where the address of a server of HAProxy leads. */
export type Leads =
  | { readonly to: 'its side' | 'a standby of its side' }
  | { readonly to: 'the other side' | 'a standby of the other side' | 'somewhere else' }
  | { readonly to: 'unknown'; readonly why: string };

const WITHIN_MS = 3_000;

/** Asks both sides of a migration who they are; a side that does not answer is left out. */
export async function whoIsThere(databases: Databases): Promise<ReadonlyMap<Side, Whoever>> {
  const sides = await Promise.all(
    (['blue', 'green'] as const).map(async (side) => {
      const options = { purpose: 'preflight', statementTimeoutMs: WITHIN_MS };
      const who = await withSession(databases[side], options, ask).catch(() => undefined);
      return who === undefined ? [] : [[side, who] as const];
    }),
  );
  return new Map(sides.flat());
}

/**
 * Where the address leads that HAProxy has for a side: asked from the worker, as the plan's user of that side, or as the
 * other side's where that one is not let in, since HAProxy itself passes on to it only what its weight lets through.
 *
 * @param api where that HAProxy's runtime API listens: an address of its own machine is somebody else's here
 */
export async function whereLeads(
  databases: Databases,
  side: Side,
  { address }: Pick<ShownServer, 'address'>,
  known: ReadonlyMap<Side, Whoever>,
  api: RuntimeAddress,
): Promise<Leads> {
  if (address === undefined) return { to: 'unknown', why: 'its address is not shown' };
  if (isLoopback(address.host) && !(await isHere(api)))
    return { to: 'unknown', why: "it is an address of HAProxy's own machine, which this one is not" };
  const [own, other] = [known.get(side), known.get(otherSide(side))];
  if (own === undefined) return { to: 'unknown', why: `${side} itself does not answer` };
  let there: Whoever;
  try {
    there = await at(databases[side], address).catch((error: unknown) =>
      at(databases[otherSide(side)], address).catch(() => {
        throw error;
      }),
    );
  } catch (error) {
    return { to: 'unknown', why: reasonOf(error) };
  }
  if (there.identity === own.identity) return { to: 'its side' };
  if (there.identity === other?.identity) return { to: 'the other side' };
  if (there.cluster === undefined || own.cluster === undefined)
    return { to: 'unknown', why: 'this role may not ask for the identifier of the cluster' };
  // Green that is a copy of blue's cluster has the same identifier: a standby of which, it does not say.
  if (own.cluster === other?.cluster && there.cluster === own.cluster) {
    return { to: 'unknown', why: 'blue and green are copies of one cluster, and so is what is there' };
  }
  if (there.cluster === own.cluster) return { to: 'a standby of its side' };
  return { to: there.cluster === other?.cluster ? 'a standby of the other side' : 'somewhere else' };
}

function isLoopback(host: string): boolean {
  return host === '::1' || /^(::ffff:)?127\./i.test(host);
}

/** Whether a HAProxy runs on this machine: by a socket in its file system, or by an address of its own. */
async function isHere(api: RuntimeAddress): Promise<boolean> {
  if ('path' in api) return true;
  const addresses = await lookup(api.host, { all: true }).catch(() => []);
  const own = Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address));
  return addresses.some(({ address }) => isLoopback(address) || own.includes(address));
}

async function at(database: Database, address: { readonly host: string; readonly port: number }): Promise<Whoever> {
  const client = new pg.Client({
    ...{ ...database.config, ...address },
    application_name: 'verdigris preflight',
    connectionTimeoutMillis: WITHIN_MS,
    query_timeout: WITHIN_MS,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    return await ask(client);
  } finally {
    void client.end().catch(() => undefined);
  }
}

async function ask(session: Session): Promise<Whoever> {
  const identity = await identityOf(session);
  const cluster = await session
    .query<{ id: string }>('SELECT system_identifier::text AS id FROM pg_catalog.pg_control_system()')
    .then(
      ({ rows }) => rows[0]?.id,
      () => undefined,
    );
  return { identity, cluster };
}
