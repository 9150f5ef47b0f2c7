import { isInRecovery } from '../postgres/in-recovery.js';
import {
  BEGIN,
  withSession,
  type Database,
  type Databases,
  type Session,
  type SessionOptions,
} from '../postgres/session.js';
import {
  CANCELED,
  isConnectionLost,
  LOCK_NOT_AVAILABLE,
  NO_RIGHT,
  READ_ONLY,
  sqlState,
  UNDEFINED_FUNCTION,
  UNDEFINED_SCHEMA,
  UNDEFINED_TABLE,
} from '../postgres/sqlstate.js';
import { otherSide, type Side } from '../side.js';
import { ASK, makeLookup } from './lookup-function.js';

/*
 * auth_query: users who are not in PgBouncer's auth_file are looked up by a query, which it runs as auth_user in the database
 * that the entry leads to. From the RELOAD of a move on, the other side is asked at each new login.
 */

/** How the users of an entry are looked up. */
export interface UserLookup {
  readonly authUser: string;
  /** Has `$1` for the name, and two columns: name and password. */
  readonly query: string;
}

/** Why a user who is found on the side that has the writes may not be found on the other one. */
export interface LookupTrouble {
  readonly user: string;
  /** `fails`: the query itself does. `no role`: there is no auth_user. `untried`: nothing is known. */
  readonly kind: 'no row' | 'no role' | 'fails' | 'other password' | 'untried';
  /** In words, without anything that a server has said: its message may quote what the query reads. */
  readonly why: string;
}

export interface LookupsCompared {
  /** The users whom the side that has the writes answers for. */
  readonly known: readonly string[];
  readonly troubles: readonly LookupTrouble[];
  /** The other side lets some in without a password, so another one need not matter. False where nothing depends on it. */
  readonly mayTrust: boolean;
}

type Answer =
  /** `isSalted`: another verifier may be one of the same password. */
  | { readonly is: 'row'; readonly password: string | null; readonly isSalted: boolean }
  | { readonly is: 'no row' }
  /** A standby has what its primary has, and nothing can be made there. */
  | { readonly is: 'standby'; readonly why: string }
  | { readonly is: 'no role' | 'fails'; readonly why: string }
  /** `holdsForAll`: whoever else is asked for gets the same answer, or waits as long for it. */
  | { readonly is: 'untried'; readonly why: string; readonly holdsForAll?: boolean };

/** After this nobody more is asked for, on either side. */
const ASKED_FOR_MS = 3_000;
/** So nothing takes longer than ASKED_FOR_MS and one statement, on a server that answers. */
const SESSION = { purpose: 'user lookup', statementTimeoutMs: 2_000, answerWithinMs: 5_000 } as const;

/**
 * Runs the query on both sides as PgBouncer would, read only, for some seconds at most: users who are not asked for by then
 * are `untried`. Passwords leave no server: what is compared are hashes.
 *
 * @param side the one that will be asked after the move
 * @param users those who matter most first
 * @param cutOn ends it anywhere
 * @throws VerdigrisError ConnectionFailed
 */
export async function compareLookups(
  databases: Databases,
  side: Side,
  lookup: UserLookup,
  users: readonly string[],
  cutOn?: AbortSignal,
): Promise<LookupsCompared> {
  const from = otherSide(side);
  const options = { ...SESSION, ...(cutOn === undefined ? {} : { cutOn }) };
  const [here, there] = await Promise.all([
    askAll(databases[from], options, lookup, users),
    askAll(databases[side], options, lookup, users),
  ]);
  const known = users.filter((_, i) => here[i]?.is === 'row');
  const troubles = users.flatMap((user, i) => troubleOf({ user, from, side }, here[i], there[i]));
  const matters = troubles.some(({ kind }) => kind === 'other password');
  return { known, troubles, mayTrust: matters && (await letsInWithoutPassword(databases[side], options)) };
}

/** By pg_hba.conf, which superusers alone may read: managed services let nobody in so. */
async function letsInWithoutPassword(database: Database, options: SessionOptions): Promise<boolean> {
  return withSession(database, options, async (session) => {
    try {
      const { rowCount } = await session.query(
        "SELECT FROM pg_hba_file_rules WHERE type LIKE 'host%' AND auth_method IN ('trust', 'cert') LIMIT 1",
      );
      return rowCount === 1;
    } catch (error) {
      if (sqlState(error) !== NO_RIGHT) throw error;
      return false;
    }
  });
}

function troubleOf(
  { user, from, side }: { readonly user: string; readonly from: Side; readonly side: Side },
  here: Answer | undefined,
  there: Answer | undefined,
): LookupTrouble[] {
  if (here === undefined || there === undefined) return [];
  if (here.is !== 'row' && here.is !== 'no row') {
    return [{ user, kind: 'untried', why: `on ${from}, ${here.why}` }];
  }
  switch (there.is) {
    case 'untried':
      return [{ user, kind: 'untried', why: `on ${side}, ${there.why}` }];
    case 'no role':
    case 'fails':
      return [{ user, kind: there.is, why: there.why }];
    case 'standby':
      return [];
    case 'no row':
      return here.is === 'row' ? [{ user, kind: 'no row', why: '' }] : [];
    case 'row':
      if (here.is !== 'row' || here.password === there.password) return [];
      return [{ user, kind: 'other password', why: here.isSalted || there.isSalted ? SALTED : '' }];
  }
}

/** In one transaction, which writes nothing. Each user is asked for from the same savepoint: nothing of one is left for the next. */
async function askAll(
  database: Database,
  options: SessionOptions,
  lookup: UserLookup,
  users: readonly string[],
): Promise<Answer[]> {
  return withSession(database, options, async (session) => {
    const until = performance.now() + ASKED_FOR_MS;
    const refused = (await isInRecovery(session)) ? STANDBY : await makeLookup(session, lookup);
    if (refused !== undefined) return users.map(() => refused);
    await session.query(`${BEGIN}; SET TRANSACTION READ ONLY; ${OF_A_NEW_SESSION}; SAVEPOINT asked`);
    const answers: Answer[] = [];
    for (const user of users) {
      const answer = performance.now() < until ? await ask(session, user) : NO_TIME_LEFT;
      answers.push(answer);
      if (answer.is === 'untried' && answer.holdsForAll === true) return users.map((_, i) => answers[i] ?? answer);
      await session.query('ROLLBACK TO SAVEPOINT asked');
    }
    return answers;
  });
}

/** The settings of a new session of a role that has none of its own. "$user" is auth_user in what the query calls. */
const OF_A_NEW_SESSION = `SET LOCAL search_path = "$user", public; SET LOCAL row_security = on`;

const STANDBY = { is: 'standby', why: 'it is a standby' } as const;

const NO_TIME_LEFT = {
  is: 'untried',
  why: `not all users were asked for within ${ASKED_FOR_MS / 1_000} s`,
  holdsForAll: true,
} as const;

async function ask(session: Session, user: string): Promise<Answer> {
  try {
    const { rows } = await session.query<{ password: string | null; isSalted: boolean }>(ASK, [user]);
    const row = rows.at(-1);
    return row === undefined ? { is: 'no row' } : { is: 'row', ...row };
  } catch (error) {
    const state = sqlState(error);
    if (state === undefined || isConnectionLost(error)) throw error;
    if (isOfQuery(state)) return { is: 'fails', why: wordsFor(state) };
    return { is: 'untried', why: wordsFor(state), holdsForAll: FOR_ALL.includes(state) };
  }
}

/** What is said of another password that may be none. */
export const SALTED = ', or the same one with another salt';

/** A statement that took too long, a table that is locked, a query that writes. */
const FOR_ALL: readonly string[] = [CANCELED, LOCK_NOT_AVAILABLE, READ_ONLY];

/** What PgBouncer would meet as well: names and privileges, schemas, and what a function raises. */
function isOfQuery(state: string): boolean {
  return ['42', '3F', 'P0'].some((family) => state.startsWith(family));
}

function wordsFor(state: string | undefined): string {
  const words = state === undefined ? undefined : WORDS[state];
  return `${words ?? 'the query fails'} (${state ?? 'no SQLSTATE'})`;
}

const WORDS: Readonly<Record<string, string>> = {
  [UNDEFINED_SCHEMA]: 'a schema that the query names is not there',
  [UNDEFINED_FUNCTION]: 'a function that the query calls is not there',
  [UNDEFINED_TABLE]: 'a table that the query reads is not there',
  [NO_RIGHT]: 'a privilege is missing that the query needs',
};
