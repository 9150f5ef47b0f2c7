import { VerdigrisError } from '../errors.js';
import { ident } from '../postgres/identifier.js';
import { sqlState } from '../postgres/sqlstate.js';
import { otherSide } from '../side.js';
import type { Console, ShownDatabase } from './console.js';
import type { Instance } from './instance.js';
import type { Obstacle, Question } from './obstacles.js';
import { SALTED, type LookupsCompared, type LookupTrouble, type UserLookup } from './user-lookup.js';

const CHECK = 'pgbouncer-auth-query';
/** With these, PgBouncer looks nobody up in a database. */
const LOOKS_NOBODY_UP = ['any', 'pam'];
/** With these it logs in to servers by the verifier of a client's own login, whatever salt the server has then. */
const KEEPS_VERIFIERS = ['scram-sha-256', 'md5'];
/** So many users are named. */
const NAMED = 10;

/** The entries whose users are looked up in the same way. */
interface Lookup extends UserLookup {
  readonly entries: readonly string[];
}

/** What is asked of one PgBouncer. */
interface Asked {
  readonly instance: Instance;
  readonly control: Console;
  readonly question: Question;
  readonly settings: ReadonlyMap<string, string>;
  readonly shown: readonly ShownDatabase[];
}

/**
 * Users whom PgBouncer looks up in the database (auth_query) are looked up on the other side after a move: whether that
 * answers as this one does. An error only on the way to green, and where it is shown
 * that users who get in would not any more: none of those who are connected, or whoever comes.
 */
export async function authQueryObstacles(
  instance: Instance,
  control: Console,
  question: Question,
): Promise<readonly Obstacle[]> {
  const settings = await control.settings();
  if (LOOKS_NOBODY_UP.includes(settings.get('auth_type') ?? '')) return [];
  const asked = { instance, control, question, settings, shown: await control.databases() };
  const { lookups, elsewhere } = await lookupsOf(asked);
  const inFile = lookups.length === 0 ? [] : await usersOfFile(asked);
  const comers = await Promise.all(lookups.map((lookup) => comersOf(asked, lookup, inFile)));
  // From here on nothing is asked of the console, nor of the sessions of others.
  const found = Promise.all(comers.map((one) => ofLookup(asked, one))).then((all) => all.flat());
  const said = elsewhere.flatMap((entry) => asksElsewhere(asked, entry));
  if (question.later === undefined) return [...(await found), ...said];
  question.later(found);
  return said;
}

/** How the users of the moved entries are looked up, and entries that are asked instead of them (auth_dbname). */
async function lookupsOf({
  instance,
  question,
  settings,
}: Asked): Promise<{ lookups: readonly Lookup[]; elsewhere: readonly string[] }> {
  const { databases } = question.setup;
  // A file that can't be read is told of by another check.
  const file = await instance.entries().catch(() => undefined);
  const lookups = new Map<string, Lookup>();
  const elsewhere = new Set<string>();
  for (const entry of databases) {
    const of = (key: string): string => file?.parameter(entry, key) ?? settings.get(key) ?? '';
    const [authUser, query, dbname] = [of('auth_user'), of('auth_query'), of('auth_dbname')];
    if (authUser === '' || query === '') continue;
    if (dbname !== '' && !databases.includes(dbname)) {
      elsewhere.add(dbname);
      continue;
    }
    const key = JSON.stringify([authUser, query]);
    lookups.set(key, { authUser, query, entries: [...(lookups.get(key)?.entries ?? []), entry] });
  }
  return { lookups: [...lookups.values()], elsewhere: [...elsewhere] };
}

/** Who is looked up so. */
interface Comers {
  readonly lookup: Lookup;
  /** Those who are connected first. */
  readonly users: readonly string[];
  /** Of them, those who have come by themselves. Without clients it is seen all the same whether the query can be run. */
  readonly all: readonly string[];
  readonly present: readonly string[];
  /** Of these, those as whom PgBouncer logs in to the other side, by the password that the query has found. */
  readonly asThemselves: readonly string[];
  /** Of them, those who may be in the auth_file. */
  readonly inFile: readonly string[];
  /** Of whose roles pgbouncer-logins tells. */
  readonly told: readonly string[];
}

async function comersOf(asked: Asked, lookup: Lookup, inFile: readonly string[]): Promise<Comers> {
  const { all, present, asThemselves } = await usersOf(asked, lookup);
  const users = all.length === 0 ? [lookup.authUser] : all;
  // pgbouncer-logins tells when that fails, and looks at nobody where PgBouncer logs in as a user of its own.
  const troubles = stayThemselves(asked, lookup.entries)
    ? await asked.question.loginTroubles(users).catch(() => [])
    : [];
  return { lookup, users, all, present, asThemselves, inFile, told: troubles.map(({ user }) => user) };
}

/** Users of whom the same is to be said. */
interface Group extends Pick<LookupTrouble, 'kind' | 'why'> {
  readonly users: string[];
  /** Of them, those who get in now, and only by the query. */
  readonly certain: string[];
}

/** What follows from the answers for those who come. */
interface Judgement {
  /** Whether this user gets in now, and only by the query. */
  isCertain(trouble: LookupTrouble): boolean;
  /** Whether what is certain of some users is reason enough not to move. */
  stops(kind: LookupTrouble['kind']): boolean;
}

function judged(
  { all, present, asThemselves, inFile }: Comers,
  { known, troubles, mayTrust }: LookupsCompared,
): Judgement {
  // A query that fails does so for whoever comes; of one user alone it matters whether they are still there.
  const whoOf = { 'no row': present, 'other password': asThemselves };
  const isCertain = ({ user, kind }: LookupTrouble): boolean =>
    known.includes(user) && !inFile.includes(user) && (isOfUser(kind) ? whoOf[kind] : all).includes(user);
  const troubleOf = (user: string): LookupTrouble | undefined => troubles.find((one) => one.user === user);
  // A single user may be missing because nobody needs them there; that all are is the fault of what the query reads.
  const found = present.filter((user) => known.includes(user) && troubleOf(user)?.kind !== 'no row');
  return {
    isCertain,
    stops: (kind) => {
      if (kind === 'no row') return found.length === 0;
      if (kind !== 'other password') return true;
      return !mayTrust && found.map(troubleOf).every((one) => one?.kind === kind && isCertain(one));
    },
  };
}

/** Whether it is said of users by their names. */
function isOfUser(kind: LookupTrouble['kind']): kind is 'no row' | 'other password' {
  return kind === 'no row' || kind === 'other password';
}

/** Never rejects. */
async function ofLookup(asked: Asked, comers: Comers): Promise<Obstacle[]> {
  const { lookup, users, told } = comers;
  try {
    const compared = await asked.question.compareLookups(lookup, users);
    const judgement = judged(comers, compared);
    const groups: Group[] = [];
    for (const trouble of compared.troubles) {
      const { user, kind, why } = trouble;
      const isCertain = judgement.isCertain(trouble);
      // What is wrong with the role is said by pgbouncer-logins.
      if (isOfUser(kind) && !(isCertain && judgement.stops(kind)) && told.includes(user)) continue;
      // What is said without naming users is said once.
      const isSame = (one: Group): boolean =>
        one.kind === kind && one.why === why && (!isOfUser(kind) || one.certain.length > 0 === isCertain);
      const group = groups.find(isSame) ?? { kind, why, users: [], certain: [] };
      if (!groups.includes(group)) groups.push(group);
      group.users.push(user);
      if (isCertain) group.certain.push(user);
    }
    return groups.map((group) => obstacleOf(asked, lookup, group, judgement.stops(group.kind)));
  } catch (error) {
    const why = error instanceof VerdigrisError ? error.what : (sqlState(error) ?? 'no answer');
    return [untried(asked, lookup, why)];
  }
}

/** Those who have come by these entries, and of them who is there now; but for those who are in its auth_file for certain. */
async function usersOf(
  asked: Asked,
  { authUser, entries }: Lookup,
): Promise<Pick<Comers, 'all' | 'present' | 'asThemselves'>> {
  const { instance, control, settings } = asked;
  const others = [authUser, instance.pooler.config.user, NOBODY_YET];
  const namesOf = (rows: readonly { database: string; user: string }[], databases: readonly string[]): string[] =>
    rows.filter(({ database, user }) => databases.includes(database) && !others.includes(user)).map(({ user }) => user);
  const clients = await control.clients();
  const present = namesOf(clients, entries);
  // A pool of an entry with a user of its own is called by that one, whoever comes by it.
  const unforced = entries.filter((entry) => !isForced(asked, entry));
  const pooled = namesOf(await control.pools(), unforced);
  const byVerifier = KEEPS_VERIFIERS.includes(settings.get('auth_type') ?? '') && !isForced(asked, aliasOfOther(asked));
  return {
    all: [...new Set([...present.sort(), ...pooled.sort()])],
    present,
    asThemselves: byVerifier ? namesOf(clients, unforced) : [],
  };
}

/** Whether all who come by this entry go on as one user. */
function isForced({ shown }: Asked, name: string): boolean {
  return shown.some((entry) => entry.name === name && entry.forcedUser !== null);
}

/** Whether some who are connected would go on as themselves: they keep the user that they came as, whatever user= the entry gets. */
function stayThemselves(asked: Asked, entries: readonly string[]): boolean {
  return !isForced(asked, aliasOfOther(asked)) || entries.some((entry) => !isForced(asked, entry));
}

function aliasOfOther({ question: { setup, leadsTo } }: Asked): string {
  return setup.aliases[otherSide(leadsTo)];
}

/** A client that is being looked up. */
const NOBODY_YET = '(nouser)';

/** In later versions also those that were looked up: who is among them may be in the file or not. */
async function usersOfFile({ control, settings }: Asked): Promise<readonly string[]> {
  return (settings.get('auth_file') ?? '') === '' ? [] : await control.users();
}

/** @param stops whether what is certain of these users is reason enough not to move */
function obstacleOf(asked: Asked, lookup: Lookup, { kind, why, users, certain }: Group, stops: boolean): Obstacle {
  const { instance, question } = asked;
  const side = otherSide(question.leadsTo);
  const [query, role] = [`auth_query of PgBouncer "${instance.pooler.connection}"`, `"${lookup.authUser}"`];
  const names = listed(users);
  const isCertain = certain.length > 0;
  // Where the run has not copied the schema yet, what is missing may come with it.
  const mayCome = kind === 'fails' && question.copiesSchema;
  const severity = stops && isCertain && side === 'green' && !mayCome ? 'error' : 'warning';
  const said = { severity, check: CHECK } as const;
  const refused = isCertain ? `: new logins of ${listed(certain)} are refused after the move` : '';
  switch (kind) {
    case 'untried':
      return untried(asked, lookup, why);
    case 'no role':
      return {
        ...{ ...said, message: `${query} is asked as ${role}, and ${why} on ${side}${refused}` },
        remedy: `On ${side}: CREATE ROLE ${ident(lookup.authUser)} LOGIN, as it is on ${question.leadsTo}`,
      };
    case 'fails':
      return {
        ...{
          ...said,
          message: `${query} fails on ${side} as ${role}, and does not on ${question.leadsTo}: ${why}${refused}`,
        },
        remedy: mayCome
          ? `Nothing, where schemas of ${question.leadsTo} have what is missing: the run copies them, and asks again before the pause. Else make it on ${side}`
          : `On ${side}: make what the query needs as it is on ${question.leadsTo} (a function, its owner, EXECUTE for ${role})`,
      };
    case 'no row':
      return {
        ...{ ...said, message: `${query} finds ${names} on ${question.leadsTo}, and not on ${side}${refused}` },
        remedy: `On ${side}: make the role, or the row that the query reads, as it is on ${question.leadsTo}`,
      };
    case 'other password': {
      const from = question.leadsTo;
      const salted = why === SALTED ? ' until the user logs in to PgBouncer anew' : '';
      return {
        ...{
          ...said,
          message: `${query} has another password for ${names} on ${side} than on ${from}${why}${isCertain ? `: clients that are connected get no connection to ${side}${salted}` : ''}`,
        },
        remedy: `On ${side}: ALTER ROLE ... PASSWORD '...' (or the row that the query reads) with the verifier that ${from} has, SCRAM-SHA-256$... or md5..., as pg_dumpall --roles-only writes it: PgBouncer logs in by what a client has proved with that one${severity === 'error' ? '' : nothingElse(asked, lookup)}`,
      };
    }
  }
}

/** When another password need not matter. */
function nothingElse(asked: Asked, { entries }: Lookup): string {
  return isForced(asked, aliasOfOther(asked)) && stayThemselves(asked, entries)
    ? '. Nothing for those who log in to PgBouncer after the move: it logs in as the user= of that side then'
    : '. Nothing, where the password is the same and PgBouncer logs in as another user, or without a password';
}

function untried({ instance, question }: Asked, { authUser }: Lookup, why: string): Obstacle {
  const side = otherSide(question.leadsTo);
  return {
    severity: 'warning',
    check: CHECK,
    message: `whether ${side} answers auth_query of PgBouncer "${instance.pooler.connection}" as ${question.leadsTo} does can't be tried: ${why}`,
    remedy: `See that "${authUser}" may run the query on ${side} with the same answers. It is tried where the users of both connections may become that role (GRANT ${ident(authUser)} TO ...), all of them may make temporary objects (GRANT TEMPORARY ON DATABASE), and the query only reads`,
  };
}

/** An entry that is asked in place of the moved ones, and goes on asking the server that the writes leave. */
function asksElsewhere({ instance, question, shown }: Asked, entry: string): Obstacle[] {
  const { setup, leadsTo } = question;
  const [row, there] = [entry, setup.aliases[leadsTo]].map((name) => shown.find((one) => one.name === name));
  if (row === undefined || there === undefined || row.host !== there.host || row.port !== there.port) return [];
  return [
    {
      severity: 'warning',
      check: CHECK,
      message: `PgBouncer "${instance.pooler.connection}" looks its users up in "${entry}" (auth_dbname), which leads to the server of ${leadsTo} and stays there when the writes move`,
      remedy: `Lead "${entry}" to the server of ${otherSide(leadsTo)} by hand once writes are there: without an answer nobody can log in`,
    },
  ];
}

function listed(users: readonly string[]): string {
  const more = users.length > NAMED ? ` and ${users.length - NAMED} more` : '';
  const named = users.slice(0, NAMED).map((user) => `"${user}"`);
  return `${named.join(', ')}${more}`;
}
