import { ident } from '../postgres/identifier.js';
import type { PreflightFinding } from '../postgres/preflight/finding.js';
import type { Session } from '../postgres/session.js';
import type { Side } from '../side.js';
import type { Console, ShownDatabase, ShownPool } from './console.js';
import type { PgBouncers } from './pgbouncer.js';

/*
 * Room on green for the server connections that PgBouncers lead there all at once. PostgreSQL refuses those beyond a limit:
 * clients wait for the others then, and a pool that has got none turns its clients away.
 */

/** Server connections: how many may be opened, and how many there are now. */
export interface Count {
  readonly mayOpen: number;
  readonly open: number;
}

/** What PgBouncers want of green, by the pools that they have now. */
export interface Wanted extends Count {
  /** By the user as whom they log in there. */
  readonly byUser: ReadonlyMap<string, Count>;
}

/** What a side allows; Infinity: no limit. */
export interface Limits {
  readonly database: { readonly name: string; readonly limit: number };
  /** max_connections without what is kept for others. */
  readonly server: number;
  /** max_connections itself. */
  readonly maxConnections: number;
  readonly roles: ReadonlyMap<string, { readonly limit: number; readonly isSuperuser: boolean }>;
}

const NOTHING: Count = { mayOpen: 0, open: 0 };

/** What one PgBouncer wants of green. */
export async function wantedThrough(control: Console, setup: PgBouncers): Promise<Wanted> {
  const [shown, pools, settings] = [await control.databases(), await control.pools(), await control.settings()];
  return wantedBy(setup, shown, pools, {
    maxUserConnections: Number(settings.get('max_user_connections') ?? 0),
    hasReserve: Number(settings.get('reserve_pool_timeout') ?? 0) > 0,
  });
}

interface GeneralSettings {
  /** 0: no limit. */
  readonly maxUserConnections: number;
  /** Whether the reserve of a pool is ever used. */
  readonly hasReserve: boolean;
}

/** Pure. */
export function wantedBy(
  { databases, aliases }: Pick<PgBouncers, 'databases' | 'aliases'>,
  shown: readonly ShownDatabase[],
  pools: readonly Pick<ShownPool, 'database' | 'user' | 'servers' | 'serversInLogin'>[],
  { maxUserConnections, hasReserve }: GeneralSettings,
): Wanted {
  const forcedOnGreen = shown.find(({ name }) => name === aliases.green)?.forcedUser ?? null;
  const byUser = new Map<string, Count>();
  let ofEntries = 0;
  for (const entry of shown.filter(({ name }) => databases.includes(name))) {
    const size = entry.poolSize + (hasReserve ? entry.reservePool : 0);
    const atMost = (count: number): number => Math.min(count, limitOf(entry.maxConnections));
    // Whoever comes by an entry with a user= goes on as that of green; who has come as himself goes on so.
    const asUser = (user: string): string => (user === entry.forcedUser ? (forcedOnGreen ?? user) : user);
    const own = pools.filter(({ database }) => database === entry.name);
    const later = forcedOnGreen ?? entry.forcedUser;
    const users = new Set([...own.map(({ user }) => asUser(user)), ...(later === null ? [] : [later])]);
    for (const user of users) {
      const ofUser = own.filter((pool) => asUser(pool.user) === user);
      const before = byUser.get(user) ?? NOTHING;
      byUser.set(user, {
        mayOpen: Math.min(before.mayOpen + atMost(size), limitOf(maxUserConnections)),
        open: before.open + sum(ofUser.map(({ servers, serversInLogin }) => servers + serversInLogin)),
      });
    }
    ofEntries += atMost(users.size * size);
  }
  const counts = [...byUser.values()];
  const ofUsers = sum(counts.map(({ mayOpen }) => mayOpen));
  return { byUser, mayOpen: Math.min(ofEntries, ofUsers), open: sum(counts.map(({ open }) => open)) };
}

/** What several want together. Pure. */
export function together(wants: readonly Wanted[]): Wanted {
  const byUser = new Map<string, Count>();
  for (const [user, count] of wants.flatMap((one) => [...one.byUser])) {
    byUser.set(user, added(byUser.get(user) ?? NOTHING, count));
  }
  return { ...wants.reduce(added, NOTHING), byUser };
}

function added(a: Count, b: Count): Count {
  return { mayOpen: a.mayOpen + b.mayOpen, open: a.open + b.open };
}

/** What a side allows in our database to these users. */
export async function readLimits(session: Session, users: readonly string[]): Promise<Limits> {
  const { rows } = await session.query<{
    name: string;
    limit: number;
    maxConnections: number;
    kept: number;
    roles: { name: string; limit: number; isSuperuser: boolean }[];
  }>(
    // reserved_connections is known since 16.
    `SELECT d.datname::text AS name, d.datconnlimit AS limit, current_setting('max_connections')::int AS "maxConnections",
            current_setting('superuser_reserved_connections')::int
              + coalesce(current_setting('reserved_connections', true)::int, 0) AS kept,
            (SELECT coalesce(json_agg(json_build_object('name', rolname, 'limit', rolconnlimit, 'isSuperuser', rolsuper)), '[]')
               FROM pg_roles WHERE rolname = ANY ($1)) AS roles
       FROM pg_database d WHERE d.datname = current_database()`,
    [users],
  );
  const [row] = rows;
  if (row === undefined) throw new Error('a database has no row of its own');
  return {
    database: { name: row.name, limit: unlessNone(row.limit) },
    server: row.maxConnections - row.kept,
    maxConnections: row.maxConnections,
    roles: new Map(row.roles.map(({ name, limit, isSuperuser }) => [name, { limit: unlessNone(limit), isSuperuser }])),
  };
}

/**
 * Where green has less room than PgBouncers may take, and less than blue has or than they have taken now. A green that allows
 * what blue does is what its people know. Pure.
 */
export function tooLittleRoom(limits: Readonly<Record<Side, Limits>>, wanted: Wanted): PreflightFinding[] {
  const { blue, green } = limits;
  const found: (PreflightFinding | undefined)[] = [];
  // PostgreSQL does not hold a superuser to the limits of a role and of a database.
  const held = [...wanted.byUser].filter(([user]) => green.roles.get(user)?.isSuperuser === false);
  for (const [user, count] of held) {
    const of = green.roles.get(user)?.limit ?? Infinity;
    const before = blue.roles.get(user)?.limit ?? Infinity;
    found.push(
      judged(`role "${user}"`, of, before, count, (to) => `On green: ALTER ROLE ${ident(user)} CONNECTION LIMIT ${to}`),
    );
  }
  if (held.length > 0) {
    const { name, limit } = green.database;
    found.push(
      judged(
        `database "${name}"`,
        limit,
        blue.database.limit,
        wanted,
        (to) => `On green: ALTER DATABASE ${ident(name)} CONNECTION LIMIT ${to}`,
      ),
    );
  }
  const kept = green.maxConnections - green.server;
  found.push(
    judged(
      'max_connections',
      green.server,
      blue.server,
      wanted,
      (to) => `Set max_connections of green to ${to + kept} or more, and restart the server`,
    ),
  );
  return found.filter((one) => one !== undefined);
}

function judged(
  object: string,
  green: number,
  blue: number,
  { mayOpen, open }: Count,
  raise: (to: number) => string,
): PreflightFinding | undefined {
  if (green >= Math.max(mayOpen, open) || (green >= blue && green >= open)) return undefined;
  const to = Math.max(open, Math.min(blue, mayOpen));
  return {
    ...{ severity: 'warning', check: 'pgbouncer-room', side: 'green', object },
    message: `green allows ${green} connections at once, and the PgBouncers may open ${mayOpen} there once writes have moved (${open} are open now; blue allows ${blue === Infinity ? 'any number' : blue}): it refuses what is beyond, and clients wait or are turned away`,
    remedy: `${raise(to)}; or lower pool_size, max_db_connections or max_user_connections of the PgBouncers. Nothing, where the section [users] of a PgBouncer allows them less`,
  };
}

/** Of PgBouncer: 0 is none. */
function limitOf(setting: number): number {
  return setting > 0 ? setting : Infinity;
}

/** Of PostgreSQL: -1 is none. */
function unlessNone(limit: number): number {
  return limit < 0 ? Infinity : limit;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}
