import { ident } from '../postgres/identifier.js';
import { SHORT_STATEMENTS, withSession, type Database, type Databases, type Session } from '../postgres/session.js';
import { sqlState } from '../postgres/sqlstate.js';
import { otherSide, type Side } from '../side.js';

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
  /** Whether the side that has the writes answers for this user. */
  readonly isKnown: boolean;
  /** In words, without anything that a server has said: its message may quote what the query reads. */
  readonly why: string;
}

type Answer =
  | { readonly is: 'row'; readonly password: string | null }
  | { readonly is: 'no row' }
  | { readonly is: 'no role' | 'fails' | 'untried'; readonly why: string };

const SESSION = { purpose: 'user lookup', statementTimeoutMs: 5_000, ...SHORT_STATEMENTS } as const;

/**
 * Runs the query on both sides as PgBouncer would, read only. Passwords leave no server: what is compared are hashes.
 *
 * @param side the one that will be asked after the move
 * @throws VerdigrisError ConnectionFailed
 */
export async function lookupTroubles(
  databases: Databases,
  side: Side,
  lookup: UserLookup,
  users: readonly string[],
): Promise<LookupTrouble[]> {
  const from = otherSide(side);
  const [here, there] = await Promise.all([
    askAll(databases[from], lookup, users),
    askAll(databases[side], lookup, users),
  ]);
  return users.flatMap((user, i) => troubleOf({ user, from, side }, here[i], there[i]));
}

function troubleOf(
  { user, from, side }: { readonly user: string; readonly from: Side; readonly side: Side },
  here: Answer | undefined,
  there: Answer | undefined,
): LookupTrouble[] {
  if (here === undefined || there === undefined) return [];
  const isKnown = here.is === 'row';
  if (here.is !== 'row' && here.is !== 'no row') {
    return [{ user, kind: 'untried', isKnown, why: `on ${from}, ${here.why}` }];
  }
  switch (there.is) {
    case 'untried':
      return [{ user, kind: 'untried', isKnown, why: `on ${side}, ${there.why}` }];
    case 'no role':
    case 'fails':
      return [{ user, kind: there.is, isKnown, why: there.why }];
    case 'no row':
      return isKnown ? [{ user, kind: 'no row', isKnown, why: '' }] : [];
    case 'row':
      if (here.is !== 'row' || here.password === there.password) return [];
      return [{ user, kind: 'other password', isKnown, why: '' }];
  }
}

async function askAll(database: Database, lookup: UserLookup, users: readonly string[]): Promise<Answer[]> {
  return withSession(database, SESSION, async (session) => {
    const answers: Answer[] = [];
    for (const user of users) answers.push(await ask(session, lookup, user));
    return answers;
  });
}

/** In a transaction of its own, which is rolled back: the session becomes itself again. */
async function ask(session: Session, { authUser, query }: UserLookup, user: string): Promise<Answer> {
  await session.query('BEGIN READ ONLY');
  try {
    const missing = await become(session, authUser);
    if (missing !== undefined) return missing;
    const { rows } = await session.query<{ password: string | null }>(
      `SELECT encode(sha256(convert_to(found.password::text, 'UTF8')), 'hex') AS password
         FROM (${query.replace(/;\s*$/, '')}
              ) AS found (name, password)
        WHERE found.name IS NOT NULL`,
      [user],
    );
    const row = rows.at(-1);
    return row === undefined ? { is: 'no row' } : { is: 'row', password: row.password };
  } catch (error) {
    const state = sqlState(error);
    return { is: state !== undefined && isOfQuery(state) ? 'fails' : 'untried', why: wordsFor(state) };
  } finally {
    await session.query('ROLLBACK').catch(() => undefined);
  }
}

/** With the settings of a new session of a role that has none of its own. */
async function become(session: Session, role: string): Promise<Answer | undefined> {
  try {
    await session.query(`SET LOCAL search_path = "$user", public; SET LOCAL row_security = on`);
    await session.query(`SET LOCAL ROLE ${ident(role)}`);
    return undefined;
  } catch (error) {
    const state = sqlState(error);
    if (state === INVALID_PARAMETER_VALUE) return { is: 'no role', why: `there is no role "${role}"` };
    if (state !== INSUFFICIENT_PRIVILEGE) throw error;
    return { is: 'untried', why: `the user of the connection may not become "${role}" (SET ROLE)` };
  }
}

const INVALID_PARAMETER_VALUE = '22023';
const INSUFFICIENT_PRIVILEGE = '42501';

/** What PgBouncer would meet as well: names and privileges, schemas, and what a function raises. */
function isOfQuery(state: string): boolean {
  return ['42', '3F', 'P0'].some((family) => state.startsWith(family));
}

function wordsFor(state: string | undefined): string {
  const words = state === undefined ? undefined : WORDS[state];
  return `${words ?? 'the query fails'} (${state ?? 'no SQLSTATE'})`;
}

const WORDS: Readonly<Record<string, string>> = {
  '3F000': 'a schema that the query names is not there',
  '42883': 'a function that the query calls is not there',
  '42P01': 'a table that the query reads is not there',
  [INSUFFICIENT_PRIVILEGE]: 'a privilege is missing that the query needs',
};
