import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { dirname } from 'node:path';
import { VerdigrisError } from '../errors.js';
import { NEXT_STEP } from '../failure-text.js';
import { lostReaderOf, type LostReader } from '../file-readers.js';
import { fileBehind } from '../replace-file.js';
import { otherSide, type Side } from '../side.js';
import { authQueryObstacles } from './auth-query.js';
import type { Console, ShownDatabase } from './console.js';
import type { Instance } from './instance.js';
import { leftBehind } from './left-behind.js';
import type { LoginTrouble } from './logins.js';
import type { PgBouncers } from './pgbouncer.js';
import type { SeenAs } from './hba-rules.js';
import { identityThrough, PoolerFull, seenThrough } from './reach.js';
import type { LookupsCompared, UserLookup } from './user-lookup.js';
import { isOlder } from './version.js';

/** Something that stops a PgBouncer from taking part in a promotion, or that somebody should know. */
export interface Obstacle {
  readonly severity: 'error' | 'warning';
  /** Name of the check; docs/preflight.md has a row of the same name. */
  readonly check: string;
  readonly message: string;
  readonly remedy: string;
}

/** What is asked of a PgBouncer. */
export interface Question {
  readonly setup: PgBouncers;
  /** The sides that must be reached through it, each with what we find there ourselves (identityOf). */
  readonly sides: readonly { readonly side: Side; readonly identity: Promise<string> }[];
  /** Where its entries must lead now. */
  readonly leadsTo: Side;
  /** What keeps users from logging in to the other side, which may see them come from there; nobody is tried. */
  readonly loginTroubles: (users: readonly string[], seenAs?: SeenAs) => Promise<readonly LoginTrouble[]>;
  /** How the other side answers to what looks these users up. */
  readonly compareLookups: (lookup: UserLookup, users: readonly string[]) => Promise<LookupsCompared>;
  /**
   * Takes what only warns and may take seconds, where nobody is to wait for it: it never rejects. Without this it is waited for
   * and among what is found.
   */
  readonly later?: (warnings: Promise<readonly Obstacle[]>) => void;
  /** Whether the run is yet to copy blue's schema to green. */
  readonly copiesSchema: boolean;
  /** Whether a pause follows: who would keep it waiting is in the way now, and not only for as long as they stay. */
  readonly isForPause: boolean;
}

/** RECONNECT after a RELOAD that changes a host is documented from 1.9 on; 1.18 is the oldest that is tested with. */
const OLDEST = [1, 9] as const;
const TESTED = [1, 18] as const;

/** Everything at once, by looking only: nothing is changed but a setting that is given the value it has. */
export async function obstaclesOf(instance: Instance, question: Question): Promise<readonly Obstacle[]> {
  let control: Console;
  try {
    control = await instance.control();
  } catch (error) {
    return [failed('pgbouncer-console', error)];
  }
  const checks = [
    versionObstacles(instance, control),
    settingObstacles(instance, control, question),
    entryObstacles(instance, control, question),
    fileObstacles(instance),
    loginObstacles(instance, control, question),
    authQueryObstacles(instance, control, question),
    ...question.sides.map((side) => reachObstacles(instance, question, side)),
  ];
  const found = await Promise.allSettled(checks);
  return found.flatMap((result) =>
    result.status === 'fulfilled' ? result.value : [failed('pgbouncer-console', result.reason)],
  );
}

async function versionObstacles({ pooler }: Instance, control: Console): Promise<Obstacle[]> {
  const version = await control.version();
  const check = 'pgbouncer-version';
  const name = `PgBouncer "${pooler.connection}" is ${version ?? 'of an unknown version'}`;
  if (version === undefined || isOlder(version, OLDEST)) {
    return [
      {
        ...{
          severity: 'error',
          check,
          message: `${name}: before 1.9 a RELOAD that changes a host is not said to lead connections there`,
        },
        remedy: 'Install 1.18 or later',
      },
    ];
  }
  if (!isOlder(version, TESTED)) return [];
  return [
    { severity: 'warning', check, message: `${name}, older than any that is tested`, remedy: 'Install 1.18 or later' },
  ];
}

async function settingObstacles({ pooler }: Instance, control: Console, question: Question): Promise<Obstacle[]> {
  const { setup } = question;
  const found: Obstacle[] = [];
  const name = `PgBouncer "${pooler.connection}"`;
  const settings = await control.settings();
  try {
    // Whoever may only look is refused here: PAUSE, RELOAD and RESUME need an admin.
    await control.set('server_login_retry', settings.get('server_login_retry') ?? '15');
  } catch {
    found.push({
      ...{
        severity: 'error',
        check: 'pgbouncer-admin',
        message: `${name} does not let the user of the connection do more than look`,
      },
      remedy: 'Put that user into admin_users (stats_users is not enough) and RELOAD',
    });
  }
  found.push(...(await sessionObstacles(pooler.connection, control, question, settings)));
  const waitMs = Number(settings.get('query_wait_timeout') ?? '120') * 1_000;
  if (waitMs > 0 && waitMs < 4 * setup.pauseTimeoutMs) {
    found.push({
      ...{
        severity: 'error',
        check: 'pgbouncer-wait',
        message: `${name} cuts clients off that wait for ${waitMs / 1_000} s (query_wait_timeout)`,
      },
      remedy: `Raise query_wait_timeout, or lower traffic.pgbouncer.pauseTimeout: at most a quarter of it`,
    });
  }
  if (settings.get('so_reuseport') === '1') {
    found.push({
      ...{
        severity: 'warning',
        check: 'pgbouncer-reuseport',
        message: `${name} shares its port (so_reuseport): each connection may reach another process`,
      },
      remedy: 'Give each process a Unix socket or a port of its own, and name each one in traffic.pgbouncer.instances',
    });
  }
  return found;
}

/** Who keeps a server connection for as long as they are there, and a PAUSE waiting as long. */
async function sessionObstacles(
  connection: string,
  control: Console,
  { setup: { databases }, isForPause }: Question,
  settings: ReadonlyMap<string, string>,
): Promise<Obstacle[]> {
  const check = 'pgbouncer-pool-mode';
  const name = `PgBouncer "${connection}"`;
  const found: Obstacle[] = [];
  const { modes, sessionsOf } = await control.poolModes(databases, settings.get('pool_mode') ?? 'session');
  if (modes.includes('session')) {
    found.push({
      ...{ severity: 'error', check, message: `${name} pools sessions: a PAUSE waits until every client has gone` },
      remedy:
        'Use pool_mode = transaction (for these entries, or for their users, it is enough), once the application can',
    });
  } else if (sessionsOf.length > 0 && !isForPause) {
    const users = sessionsOf.map((user) => `"${user}"`).join(', ');
    found.push({
      ...{
        severity: 'warning',
        check,
        message: `${name} pools sessions of ${users}, who are not there now: a PAUSE waits until they have gone`,
      },
      remedy:
        'See that they are not connected at the promotion, and at a way back; or give them pool_mode = transaction',
    });
  }
  const replicating = await control.replicating(databases);
  if (replicating.length > 0) {
    found.push({
      ...{
        severity: isForPause ? 'error' : 'warning',
        check,
        message: `clients replicate through ${name} (${replicating.join('; ')}): a PAUSE waits until they have gone, whatever the pool_mode`,
      },
      remedy: 'End them before the promotion, or connect them to the server itself',
    });
  }
  return found;
}

async function entryObstacles(instance: Instance, control: Console, question: Question): Promise<Obstacle[]> {
  const { databases, aliases } = question.setup;
  const name = `PgBouncer "${instance.pooler.connection}"`;
  const rows = await control.databases();
  const error = (message: string, remedy: string): Obstacle => ({
    severity: 'error',
    check: 'pgbouncer-entries',
    message,
    remedy,
  });
  const missing = [...databases, aliases.blue, aliases.green].filter(
    (entry) => !rows.some((row) => row.name === entry),
  );
  if (missing.length > 0) {
    return [
      error(
        `${name} has no entry ${missing.map((entry) => `"${entry}"`).join(', ')}`,
        `Write it into ${instance.pooler.file}, include that file in [databases], and RELOAD`,
      ),
    ];
  }
  const found: Obstacle[] = [];
  const { leadsTo, paused } = await instance.look();
  const targets = (['blue', 'green'] as const).map((side) => rows.find((row) => row.name === aliases[side]));
  if (
    targets[0]?.host === targets[1]?.host &&
    targets[0]?.port === targets[1]?.port &&
    targets[0]?.database === targets[1]?.database
  ) {
    found.push(
      error(`${name}: "${aliases.blue}" and "${aliases.green}" lead to one database`, 'Mend the one that is wrong'),
    );
  } else if (leadsTo !== question.leadsTo) {
    found.push(
      error(
        `${name}: ${databases.map((entry) => `"${entry}"`).join(', ')} should lead where "${aliases[question.leadsTo]}" does, and lead to ${leadsTo ?? 'neither side'}`,
        `Give them the same host, port and dbname as "${aliases[question.leadsTo]}"`,
      ),
    );
  }
  if (paused.length > 0)
    found.push(error(`${name}: ${paused.map((entry) => `"${entry}"`).join(', ')} paused`, 'RELOAD, then RESUME it'));
  // A file that can't be read is told of by another check.
  const fallback = await instance.fallback().catch(() => undefined);
  const left = leftBehind(question.setup, question.leadsTo, rows, fallback);
  return [
    ...found,
    ...(question.leadsTo === 'blue' ? keptUser(instance.pooler, question.setup, rows) : []),
    ...left.map((entry) => staysBehind(instance.pooler, entry, question.leadsTo)),
  ];
}

/**
 * A running PgBouncer does not let go of the user= of an entry ("losing forced user not supported"): one that an entry has
 * got with green's address is that of its new clients on blue, too, after a rollback.
 */
function keptUser(
  { connection }: Instance['pooler'],
  { databases, aliases }: PgBouncers,
  rows: readonly ShownDatabase[],
): Obstacle[] {
  const forcedOf = (entry: string): string | null => rows.find(({ name }) => name === entry)?.forcedUser ?? null;
  const user = forcedOf(aliases.green);
  if (user === null || forcedOf(aliases.blue) !== null) return [];
  const getIt = databases.filter((entry) => forcedOf(entry) !== user).map((entry) => `"${entry}"`);
  if (getIt.length === 0) return [];
  return [
    {
      severity: 'warning',
      check: 'pgbouncer-entries',
      message: `"${aliases.green}" of PgBouncer "${connection}" has a user= and "${aliases.blue}" has none: new clients of ${getIt.join(', ')} would come to blue as "${user}" after a rollback, since PgBouncer does not let go of it; and those who are connected at the promotion come to green as the user that they are now`,
      remedy: `Give "${aliases.blue}" and ${getIt.join(', ')} the user= and password= by which clients come to blue; or take them off "${aliases.green}", and make the roles of the clients on green. Nothing, where both servers let in all of these users`,
    },
  ];
}

/** Its clients find a fence where they write, and later rows that are not kept current. */
function staysBehind({ connection, file }: Instance['pooler'], entry: string, side: Side): Obstacle {
  const isAny = entry === '*';
  const clients = isAny ? 'clients that come by a name without an entry of its own (*)' : `clients of "${entry}"`;
  return {
    severity: 'warning',
    check: 'pgbouncer-entries',
    message: `${clients} stay on ${side} when the writes move: this entry of PgBouncer "${connection}" leads there, and is not in traffic.pgbouncer.databases`,
    remedy: `Add ${isAny ? 'each name that is in use' : 'it'} to traffic.pgbouncer.databases, with an entry in ${file}; in a run that has begun, lead it to ${otherSide(side)} by hand once writes are there. Nothing, where nobody comes by it`,
  };
}

async function fileObstacles(instance: Instance): Promise<Obstacle[]> {
  const { connection, file } = instance.pooler;
  const error = (message: string, remedy: string): Obstacle => ({
    severity: 'error',
    check: 'pgbouncer-file',
    message,
    remedy,
  });
  try {
    await access(file, constants.R_OK | constants.W_OK);
    // It is replaced as a whole, so that PgBouncer never reads half of it.
    await access(dirname(await fileBehind(file)), constants.W_OK);
  } catch {
    return [
      error(
        `the worker can't read and replace ${file}, the file of PgBouncer "${connection}"`,
        'Share its folder with the machine of the worker, writable for the worker',
      ),
    ];
  }
  const lost = await lostReaderOf(file);
  const readers: Obstacle[] = lost === undefined ? [] : [unread(instance.pooler, lost)];
  const differs = await instance.differsFromFile();
  if (differs === undefined) return [...readers, ...(await ownLimits(instance))];
  return [
    ...readers,
    error(
      `PgBouncer "${connection}" does not show what ${file} says: ${differs}`,
      'Include that very file in [databases] (%include), and RELOAD; share the folder, not the file',
    ),
  ];
}

/** It would go on with what it has loaded, and not start again. */
function unread({ connection, file }: Instance['pooler'], { isSure, why, nextStep }: LostReader): Obstacle {
  return {
    severity: isSure ? 'error' : 'warning',
    check: 'pgbouncer-file',
    message: `PgBouncer "${connection}" may not be able to read ${file} once the worker has changed it: ${why}`,
    remedy: nextStep.charAt(0).toUpperCase() + nextStep.slice(1),
  };
}

/** What the pause can't keep from opening connections, which it would then close: the setting of an entry is not a SET away. */
async function ownLimits(instance: Instance): Promise<Obstacle[]> {
  const { connection, file } = instance.pooler;
  return (await instance.ownLimits()).map((entry) => ({
    severity: 'warning',
    check: 'pgbouncer-limits',
    message: `the entry "${entry}" of PgBouncer "${connection}" has a min_pool_size or max_db_connections of its own: PgBouncer may open connections during the pause and turn a client away after it`,
    remedy: `Set them in [pgbouncer], for all entries, and take them out of ${file}`,
  }));
}

async function reachObstacles(
  { pooler }: Instance,
  { setup: { aliases }, leadsTo }: Question,
  { side, identity }: Question['sides'][number],
): Promise<Obstacle[]> {
  try {
    const [through, direct] = await Promise.all([identityThrough(pooler, aliases[side]), identity]);
    if (through === direct) return [];
    return [
      {
        ...{
          severity: 'error',
          check: 'pgbouncer-reach',
          message: `the entry "${aliases[side]}" of PgBouncer "${pooler.connection}" leads to another database than ${side}`,
        },
        remedy: `Mend its host, port and dbname: they must lead to what the plan calls ${side}`,
      },
    ];
  } catch (error) {
    const found = failed('pgbouncer-reach', error);
    // Clients pile up while green is slow: just then the way back must be open, and the pause needs the console alone.
    if (error instanceof PoolerFull && leadsTo === 'green') return [{ ...found, severity: 'warning' }];
    return [found];
  }
}

/**
 * The users as whom it would log in to the other side: that they may is shown for the console's user, and for the user= of
 * that side's entry (reachObstacles). A client keeps the pool that it got when it came: one that came as itself goes on as
 * itself, whatever user= its entry gets; and an entry that has one keeps it where the other side's has none.
 */
async function loginObstacles({ pooler }: Instance, control: Console, question: Question): Promise<Obstacle[]> {
  const { databases, aliases } = question.setup;
  const shown = await control.databases();
  const target = shown.find(({ name }) => name === aliases[otherSide(question.leadsTo)]);
  if (target === undefined) return [];
  const forced = new Map(
    shown.filter(({ name }) => databases.includes(name)).map(({ name, forcedUser }) => [name, forcedUser]),
  );
  const pools = (await control.pools()).filter(({ database }) => databases.includes(database));
  const comeAs =
    target.forcedUser === null
      ? [...pools.map(({ user }) => user), ...[...forced.values()].filter((user) => user !== null)]
      : pools.filter(({ database, user }) => user !== forced.get(database)).map(({ user }) => user);
  const users = comeAs.filter((user) => user !== pooler.config.user);
  if (users.length === 0) return [];
  const warning = (message: string, remedy: string): Obstacle => ({
    severity: 'warning',
    check: 'pgbouncer-logins',
    message,
    remedy,
  });
  try {
    // One that does not get through is told of by another check.
    const seenAs = await seenThrough(pooler, target.name).catch(() => undefined);
    const troubles = await question.loginTroubles([...new Set(users)], seenAs);
    return troubles.map(({ why, remedy }) =>
      warning(`clients of PgBouncer "${pooler.connection}" may be refused: ${why}`, remedy),
    );
  } catch (error) {
    const { message, remedy } = failed('pgbouncer-logins', error);
    return [
      warning(`whether clients of PgBouncer "${pooler.connection}" may log in can't be looked at: ${message}`, remedy),
    ];
  }
}

function failed(check: string, error: unknown): Obstacle {
  const [message = '', remedy] = (error instanceof Error ? error.message : String(error)).split(NEXT_STEP);
  const next = error instanceof VerdigrisError ? error.nextStep : (remedy ?? 'See the log of that PgBouncer');
  return { severity: 'error', check, message, remedy: next.charAt(0).toUpperCase() + next.slice(1) };
}
