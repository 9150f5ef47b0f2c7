import type { Side } from '../side.js';
import { ident } from './identifier.js';
import type { Database, Databases, Session } from './session.js';

/*
 * Sessions of ours switch every timeout off. Those that PostgreSQL opens for a feed do not: a WAL sender takes what the
 * publisher has set for the user that logs in, and a worker of a subscription what is set for its owner. The copy of a
 * table is one statement of the WAL sender: statement_timeout ends it. Where transactions have a limit (since 17), that
 * ends sender and worker, in the middle of a large transaction as well. Then everything begins anew, until the next time.
 */

export type TimeoutSetting = 'statement_timeout' | 'transaction_timeout';

/** A limit that holds for the processes of a feed. */
export interface FeedTimeout {
  readonly side: Side;
  readonly setting: TimeoutSetting;
  readonly ms: number;
  /** For whose sessions. */
  readonly user: string;
  readonly database: string;
}

/** The limits among `settings` that new sessions of a user have; those that the server does not know are none. */
export async function readTimeouts(
  side: Side,
  session: Session,
  user: string | undefined,
  settings: readonly TimeoutSetting[],
): Promise<FeedTimeout[]> {
  const { rows } = await session.query<Omit<FeedTimeout, 'side' | 'ms'> & { readonly value: string }>(STORED_TIMEOUTS, [
    settings,
    user ?? null,
  ]);
  return rows.map(({ value, ...rest }) => ({ side, ...rest, ms: milliseconds(value) })).filter(({ ms }) => ms > 0);
}

/** reset_val is what new sessions of this very user get: what is stored for it alone says nothing of another one. */
const STORED_TIMEOUTS = `
  WITH asked AS (SELECT coalesce($2, current_user::text) AS name),
       stored AS (SELECT r.setrole, r.setdatabase, split_part(c, '=', 1) AS name, split_part(c, '=', 2) AS value
                    FROM pg_db_role_setting r, unnest(r.setconfig) c
                   WHERE r.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())))
  SELECT s.name AS setting, asked.name AS user, current_database()::text AS database,
         coalesce((SELECT v.value FROM stored v LEFT JOIN pg_roles u ON u.oid = v.setrole
                    WHERE v.name = s.name AND (v.setrole = 0 OR u.rolname = asked.name)
                    ORDER BY v.setrole = 0, v.setdatabase = 0 LIMIT 1),
                  CASE WHEN EXISTS (SELECT FROM stored v JOIN pg_roles u ON u.oid = v.setrole
                                     WHERE v.name = s.name AND u.rolname = current_user) THEN s.boot_val
                       ELSE s.reset_val END) AS value
    FROM asked, pg_settings s WHERE s.name = ANY ($1) ORDER BY 1`;

const UNITS: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1_000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

function milliseconds(value: string): number {
  const [, number = '0', unit = ''] = /^\s*([\d.]+)\s*([a-z]*)\s*$/.exec(value) ?? [];
  return Number(number) * (UNITS[unit] ?? 1);
}

/** With whom the other server logs in to this one; undefined where its connection string does not say. */
export function peerUser({ peerConninfo }: Database): string | undefined {
  if (/^postgres(ql)?:\/\//.test(peerConninfo)) {
    const user =
      /[?&]user=([^&]*)/.exec(peerConninfo)?.[1] ?? /^[^:]+:\/\/([^:@/?]+)(?::[^@/?]*)?@/.exec(peerConninfo)?.[1];
    return user === undefined ? undefined : decodeURIComponent(user);
  }
  const [, quoted, plain] = /(?:^|\s)user\s*=\s*(?:'((?:[^'\\]|\\.)*)'|(\S+))/.exec(peerConninfo) ?? [];
  return quoted?.replaceAll(/\\(.)/g, '$1') ?? plain;
}

/** What a feed's publisher must not have for those who log in there, and a subscriber for the owner of the subscription. */
export const OF_SENDER: readonly TimeoutSetting[] = ['statement_timeout', 'transaction_timeout'];
export const OF_WORKER: readonly TimeoutSetting[] = ['transaction_timeout'];

/** The shortest limit of PostgreSQL's own copy to green, on either side; undefined when there is none. */
export async function copyTimeout(
  { blue }: Databases,
  onBlue: Session,
  onGreen: Session,
): Promise<FeedTimeout | undefined> {
  const limits = [
    ...(await readTimeouts('blue', onBlue, peerUser(blue), OF_SENDER)),
    ...(await readTimeouts('green', onGreen, undefined, OF_WORKER)),
  ];
  return limits.sort((a, b) => a.ms - b.ms)[0];
}

/** `the statement_timeout of 30 s that user "x" has on blue` */
export function limitOf({ side, setting, ms, user }: FeedTimeout): string {
  return `the ${setting} of ${ms / 1_000} s that user "${user}" has on ${side}`;
}

/** What takes the limit away from this user alone. */
export function endTimeout({ setting, user, database }: FeedTimeout): string {
  return `ALTER ROLE ${ident(user)} IN DATABASE ${ident(database)} SET ${setting} = 0`;
}
