import { VerdigrisError } from '../../errors.js';
import { withoutNeedlessQuotes } from './catalog-description.js';
import { GIVE_ROOM, isTransient, messageOf } from '../migrate/step-failed.js';
import { isNameInFunction } from '../name-in-function.js';
import {
  CONFIG_FILE_ERROR,
  DUPLICATE_OBJECT,
  DUPLICATE_TABLE,
  EXCLUSION_VIOLATION,
  FEATURE_NOT_SUPPORTED,
  FOREIGN_KEY_VIOLATION,
  INTERNAL_ERROR,
  isOutOfRoom,
  isUnknownSetting,
  NO_RIGHT,
  NOT_IN_STATE,
  OUT_OF_MEMORY,
  RAISED,
  sqlState,
  UNDEFINED_FILE,
  UNDEFINED_OBJECT,
  UNDEFINED_TABLE,
  UNIQUE_VIOLATION,
} from '../sqlstate.js';

/**
 * The error of a statement of the schema copy: the object, what PostgreSQL says, and what to do about it. Rows in the way
 * are of a type that holds the run: they can be repaired, and the copy goes on where it was.
 *
 * @param nextStep default: by what PostgreSQL says
 */
export function schemaCopyFailed(statement: string, cause: unknown, nextStep?: string): VerdigrisError {
  if (cause instanceof VerdigrisError) return cause;
  const state = sqlState(cause) ?? '';
  const rows = isOfCatalog(cause) ? undefined : ROWS_IN_THE_WAY[state];
  return new VerdigrisError({
    type: rows === undefined ? 'SchemaCopyFailed' : 'BackfillFailed',
    message: `green: ${describeStatement(statement)}: ${messageOf(cause)}`,
    nextStep:
      nextStep ??
      rows ??
      (isRefusedByExtension(statement, cause) ? NEEDS_OF_EXTENSION : undefined) ??
      (isNameInFunction(cause) ? ofFunction(cause) : NEXT_STEPS[state]) ??
      (isOutOfRoom(cause) ? GIVE_ROOM : OTHERWISE),
    retryable: isTransient(cause),
    cause,
  });
}

const OTHERWISE =
  'change the object on blue so that green takes it, or leave its table out by "tables.exclude"; then start the migration again';

function ofFunction(cause: unknown): string {
  return isUnknownSetting(cause) ? SETTING_IN_BODY : SCHEMAS_IN_BODY;
}

const SETTING_IN_BODY =
  'a function that the object calls reads a setting which only sessions of the application have: ALTER DATABASE ... SET it on green, or write current_setting(..., true) into the function on blue; then start the migration again';

const SCHEMAS_IN_BODY =
  'a function that the object calls names something without its schema: ALTER FUNCTION ... SET search_path = ... on blue, with the schemas of what it names (preflight check "function-search-path" says which); then start the migration again';

/** The script or the library of an extension says with these what it wants of the server; what PostgreSQL says itself has other ones. */
function isRefusedByExtension(statement: string, cause: unknown): boolean {
  if (!/^CREATE EXTENSION\b/.test(statement)) return false;
  return [INTERNAL_ERROR, NOT_IN_STATE, RAISED].includes(sqlState(cause) ?? '') || isUnknownSetting(cause);
}

const NEEDS_OF_EXTENSION =
  "give green's server what the extension asks for, as blue's has it: mostly shared_preload_libraries, with a restart, or a setting such as the database in which it may be; or drop the extension on blue; then start the migration again";

const NEXT_STEPS: Readonly<Record<string, string>> = {
  [NO_RIGHT]:
    "grant the privilege to green's user, or let green's connection log in as a superuser; then start the migration again",
  [UNDEFINED_OBJECT]:
    'create on green what is missing (a role, an extension, a type), as it is on blue; then start the migration again',
  [FEATURE_NOT_SUPPORTED]:
    "install on green's server what is missing, or remove the object from blue; then start the migration again",
  [UNDEFINED_FILE]: "install the extension's files on green's server; then start the migration again",
  [CONFIG_FILE_ERROR]:
    "put the file of the text search dictionary into tsearch_data of green's server (below `pg_config --sharedir`), as it is on blue's, or drop the dictionary on blue; then start the migration again",
  [DUPLICATE_TABLE]:
    'green must be empty: drop what is there, or give an empty database; then start the migration again',
  [DUPLICATE_OBJECT]:
    'green must be empty: drop what is there, or give an empty database; then start the migration again',
  [UNDEFINED_TABLE]:
    'the object needs a table that is not moved: include that table, or exclude this one; then start the migration again',
  [OUT_OF_MEMORY]:
    "give green's server memory, or raise max_locks_per_transaction and restart it (the schema is made in one transaction); the run tries again by itself",
};

/** Such as rows of a blue whose index is damaged, or that were written while triggers were off. */
const ROWS_IN_THE_WAY: Readonly<Record<string, string>> = {
  [FOREIGN_KEY_VIOLATION]:
    'rows on blue break their own foreign key: repair them on blue, see that green has the same (or do it there, too), then resume; or roll back',
  [UNIQUE_VIOLATION]:
    'rows on blue break their own unique index (a REINDEX on blue shows which): repair them on blue, see that green has the same (or do it there, too), then resume; or roll back',
  [EXCLUSION_VIOLATION]:
    'rows on blue break their own exclusion constraint: repair them on blue, see that green has the same (or do it there, too), then resume; or roll back',
};

/** Two of one name in a catalog are no rows of the application. */
function isOfCatalog(error: unknown): boolean {
  return typeof error === 'object' && error !== null && 'schema' in error && error.schema === 'pg_catalog';
}

/** What a statement makes, without its body: `CREATE TABLE public.orders`, `ALTER TABLE ONLY a.b ADD CONSTRAINT c`. */
export function describeStatement(statement: string): string {
  const line = withoutNeedlessQuotes(statement).replaceAll(/\s+/g, ' ').trim();
  const end =
    / (?:\(|AS |USING |PRIMARY KEY|UNIQUE|FOREIGN KEY|CHECK|EXCLUDE|RETURNS )|\(/.exec(line)?.index ?? line.length;
  return line.slice(0, Math.min(end, 200));
}
