import { type TableName } from '../../plan/table-name.js';
import { VerdigrisError } from '../../errors.js';
import { isTransient } from '../migrate/step-failed.js';
import { majorVersion } from '../retry.js';
import { withoutSecrets } from '../scrub.js';
import { LockWatch, lockNotHad, wasStopped } from '../lock-watch.js';
import { type Database, openSession, withSession } from '../session.js';
import { leavingOut, leavingOutByFilter } from './leaving-out.js';
import { DUMP_APPLICATION, findNativePgDump, libpqEnvironment, runNativePgDump } from './pg-dump-native.js';
import { WASM_PG_DUMP_MAJOR, runWasmPgDump } from './pg-dump-wasm.js';

export interface DumpOptions {
  /** Tables, views and sequences that stay where they are. */
  readonly exclude: readonly TableName[];
  /** Whether owners and grants go along: only a superuser can give objects to other roles. */
  readonly ownersAndGrants: boolean;
  /** The major version of the database's server. Default: it is asked */
  readonly server?: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The schema of a database as pg_dump writes it: `pre-data` is what rows need (types, functions, tables, views),
 * `post-data` what is better made after them (keys, indexes, foreign keys, triggers).
 *
 * pg_dump must be at least as new as the server: the machine's own is used when it is, else the one that comes with
 * Verdigris as WebAssembly.
 *
 * @throws VerdigrisError SchemaCopyFailed with what pg_dump says.
 */
export async function dumpSchema(
  database: Database,
  section: 'pre-data' | 'post-data',
  options: DumpOptions,
): Promise<string> {
  const server = options.server ?? (await withSession(database, { purpose: 'schema copy' }, majorVersion));
  const watch = new LockWatch({
    connect: () => openSession(database, { purpose: 'watch locks' }),
    ours: { application: DUMP_APPLICATION },
    // pg_dump keeps its locks on all tables to its end.
    stop: 'terminate',
  });
  const { result, met } = await watch.during(() => dump(database, server, section, options));
  await watch.close();
  if (result.status === 'fulfilled') return result.value;
  options.signal?.throwIfAborted();
  const waited = met.waitedFor.length > 0 && result.reason instanceof VerdigrisError && result.reason.retryable;
  if (wasStopped(met) || waited)
    throw lockNotHad(`${database.side}: reading the schema (${section})`, met, result.reason);
  throw result.reason;
}

async function dump(
  database: Database,
  server: number,
  section: 'pre-data' | 'post-data',
  options: DumpOptions,
): Promise<string> {
  const args = dumpArguments(section, options);
  try {
    const native = await findNativePgDump();
    const environment = libpqEnvironment(database);
    if (native !== undefined && environment !== undefined && native.major >= server) {
      const leftOut = leavingOut(options.exclude, native.major);
      if (leftOut !== undefined) {
        return await runNativePgDump(native, environment, [...args, ...leftOut.args], leftOut.input, options.signal);
      }
    }
    if (WASM_PG_DUMP_MAJOR < server) throw tooOld(database, server, native?.major);
    const { args: filter, input } = leavingOutByFilter(options.exclude);
    return await runWasmPgDump(database, [...args, ...filter], input, options.signal);
  } catch (error) {
    options.signal?.throwIfAborted();
    if (error instanceof VerdigrisError) throw error;
    const said = error instanceof Error ? error.message : '';
    throw new VerdigrisError({
      type: 'SchemaCopyFailed',
      message: `${database.side}: pg_dump could not read the schema (${section}): ${withoutSecrets(error, [database])}`,
      nextStep: NO_UTF8.test(said) ? WRITE_IN_UTF8 : SEE_ABOVE,
      // pg_dump bounds its waits for locks by statement_timeout.
      retryable: passesByItself(said) || isTransient(error),
      cause: undefined,
    });
  }
}

const SEE_ABOVE =
  'see what pg_dump says above: a missing privilege is granted on the table that it names, a lock is let go by whoever holds it';

/** 22021, in any language: pg_dump does not tell the code. */
const NO_UTF8 = /"UTF8": 0x/;

const WRITE_IN_UTF8 =
  'a text of the schema (a comment, the body of a function, a CHECK, a default, a label of an enum) is no UTF8, as a database in SQL_ASCII takes it: write it anew in UTF8 or ASCII on blue, then start the migration again';

/** What passes by itself, in pg_dump's words, and not in a name that it tells: a privilege is granted by somebody. Pure. */
export function passesByItself(said: string): boolean {
  return !/permission denied/.test(said) && PASSES.test(said.replaceAll(/"[^"]*"|Query was: .*/gs, ''));
}

/** A wait for a lock, a server that is away or full. */
const PASSES =
  /(lock|statement) timeout|connection|could not translate host name|too many clients|out of shared memory/i;

/** The arguments of pg_dump, without what it leaves out. Pure, so that a test can read them: no name of a host or a user is among them. */
export function dumpArguments(
  section: 'pre-data' | 'post-data',
  options: Pick<DumpOptions, 'ownersAndGrants'>,
): string[] {
  return [
    '--schema-only',
    `--section=${section}`,
    '--encoding=UTF8',
    // A server quotes what its own version reserves. The dump is read by the parser of another one, and run on a third.
    '--quote-all-identifiers',
    '--no-publications',
    '--no-subscriptions',
    // Labels belong to providers that a new server may not have.
    '--no-security-labels',
    // Tablespaces are directories of one server.
    '--no-tablespaces',
    '--exclude-schema="verdigris"',
    // Only DDL on blue can make it wait. While it does it keeps the locks that it has, so whoever wants to change one
    // of those tables waits, too, and everybody behind them.
    '--lock-wait-timeout=2000',
    ...(options.ownersAndGrants ? [] : ['--no-owner', '--no-privileges']),
  ];
}

function tooOld(database: Database, server: number, native: number | undefined): VerdigrisError {
  return new VerdigrisError({
    type: 'SchemaCopyFailed',
    message:
      `${database.side}: the server is PostgreSQL ${server}, and no pg_dump here can read it: the one that comes with Verdigris ` +
      `is ${WASM_PG_DUMP_MAJOR}${native === undefined ? ', and there is none on PATH' : `, the one on PATH is ${native}`}`,
    nextStep: `install the client tools of PostgreSQL ${server} where the worker runs, or name their pg_dump in VERDIGRIS_PG_DUMP`,
  });
}
