import { TakesNoWrites } from './in-recovery.js';

/*
 * SQLSTATEs by name, and by what they mean to us. Source: PostgreSQL documentation, appendix A. Those of a login that is
 * refused are in ../refused-login.ts, since workflow code asks for them as well.
 */

/** transaction_resolution_unknown: what an extension may say that commits elsewhere as well. */
const RESOLUTION_UNKNOWN = '08007';
export const FEATURE_NOT_SUPPORTED = '0A000';
export const INVALID_PARAMETER_VALUE = '22023';
export const NOT_NULL_VIOLATION = '23502';
export const FOREIGN_KEY_VIOLATION = '23503';
export const UNIQUE_VIOLATION = '23505';
export const CHECK_VIOLATION = '23514';
export const EXCLUSION_VIOLATION = '23P01';
/** read_only_sql_transaction: what a server in recovery says to a write, and what the fence raises. */
export const READ_ONLY = '25006';
/** in_failed_sql_transaction: an earlier statement of it has failed. */
export const IN_FAILED_TRANSACTION = '25P02';
/** dependent_objects_still_exist. */
export const HAS_DEPENDENTS = '2BP01';
/** invalid_catalog_name: there is no such database. */
export const UNKNOWN_DATABASE = '3D000';
/** invalid_schema_name: there is no such schema. */
export const UNDEFINED_SCHEMA = '3F000';
export const SERIALIZATION_FAILURE = '40001';
/** statement_completion_unknown: what a pooler may say. */
export const COMPLETION_UNKNOWN = '40003';
export const DEADLOCK_DETECTED = '40P01';
/** insufficient_privilege; of rows that policies hide as well. */
export const NO_RIGHT = '42501';
export const SYNTAX_ERROR = '42601';
export const UNDEFINED_COLUMN = '42703';
export const UNDEFINED_OBJECT = '42704';
export const DUPLICATE_OBJECT = '42710';
export const UNDEFINED_FUNCTION = '42883';
export const UNDEFINED_TABLE = '42P01';
/** duplicate_table; of every relation, an index as well. */
export const DUPLICATE_TABLE = '42P07';
export const OUT_OF_MEMORY = '53200';
export const TOO_MANY_CONNECTIONS = '53300';
/** program_limit_exceeded: what is too large for a limit, also one of schema verdigris. */
export const LIMIT_EXCEEDED = '54000';
/** object_not_in_prerequisite_state. */
export const NOT_IN_STATE = '55000';
/** object_in_use: a slot that is still active. */
export const OBJECT_IN_USE = '55006';
/** lock_not_available: lock_timeout, NOWAIT. */
export const LOCK_NOT_AVAILABLE = '55P03';
/** query_canceled: statement_timeout or pg_cancel_backend. */
export const CANCELED = '57014';
/** cannot_connect_now: the server starts, stops or recovers. */
export const CANNOT_CONNECT_NOW = '57P03';
const IO_ERROR = '58030';
/** undefined_file: of an extension that is not installed. */
export const UNDEFINED_FILE = '58P01';
/** config_file_error: a file that belongs to the server's own, such as one of a text search dictionary. */
export const CONFIG_FILE_ERROR = 'F0000';
/** raise_exception: RAISE in PL/pgSQL that names no other. */
export const RAISED = 'P0001';
/** Also `cache lookup failed`. */
export const INTERNAL_ERROR = 'XX000';
/** Ours: raised by the functions of schema verdigris for an epoch that is over. */
export const STALE_EPOCH = 'VDEPO';

/** The statement lost a race or a lock and did nothing: trying again can succeed. */
export const TRY_AGAIN: ReadonlySet<string> = new Set([
  SERIALIZATION_FAILURE,
  DEADLOCK_DETECTED,
  LOCK_NOT_AVAILABLE,
  OBJECT_IN_USE,
]);

/** The connection or the server went away. What was in flight may or may not have been done. */
export const CONNECTION_LOST: ReadonlySet<string> = new Set([
  '08000',
  '08001',
  '08003',
  '08004',
  '08006',
  '57P01', // admin_shutdown
  '57P02', // crash_shutdown
  CANNOT_CONNECT_NOW,
  '57P05', // idle_session_timeout
  '25P03', // idle_in_transaction_session_timeout
  '25P04', // transaction_timeout
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ECONNABORTED',
  'EHOSTUNREACH',
  'EHOSTDOWN',
  'ENETUNREACH',
  'ENETDOWN',
  'ENOTFOUND',
  'EAI_AGAIN',
]);

/** DDL that runs right now holds locks that the catalog's functions ask for, or drops what is being read. */
export const SCHEMA_IN_CHANGE: ReadonlySet<string> = new Set([
  LOCK_NOT_AVAILABLE,
  INTERNAL_ERROR,
  UNDEFINED_TABLE,
  UNDEFINED_OBJECT,
]);

/**
 * Whether the server has run out of something: disk, memory, connections, a limit of its configuration (class 53), or
 * can't write a file. It passes when somebody makes room.
 */
export function isOutOfRoom(error: unknown): boolean {
  const state = sqlState(error);
  return state !== undefined && (state.startsWith('53') || state === IO_ERROR);
}

const UNKNOWN_NAMES: ReadonlySet<string> = new Set([
  UNDEFINED_FUNCTION,
  UNDEFINED_TABLE,
  UNDEFINED_OBJECT,
  UNDEFINED_SCHEMA,
]);

/** Whether PostgreSQL has not found what a name stands for: the name is wrong, or its schema is not in the search_path. */
export function isUnknownName(error: unknown): boolean {
  return UNKNOWN_NAMES.has(sqlState(error) ?? '');
}

/** Whether current_setting() has not found a setting, as one of the application's own that each of its sessions makes. */
export function isUnknownSetting(error: unknown): boolean {
  // The message is in the server's language; the file of its source is not.
  return sqlState(error) === UNDEFINED_OBJECT && error instanceof Error && 'file' in error && error.file === 'guc.c';
}

/** The SQLSTATE (or the errno name of a socket error) of what was thrown; undefined when there is none. */
export function sqlState(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/**
 * Whether a server in recovery has refused a statement since it is one. To be asked of such a server's errors only: on a
 * primary a read-only transaction is told so, too. The fence names its schema.
 */
export function isRefusedInRecovery(error: unknown): boolean {
  if (typeof error !== 'object' || error === null) return false;
  const { file, schema } = error as { readonly file?: unknown; readonly schema?: unknown };
  // The two are of functions that read where the WAL is, and that make slots: their SQLSTATEs are of many other things.
  return (sqlState(error) === READ_ONLY && schema === undefined) || file === 'xlogfuncs.c' || file === 'logical.c';
}

/**
 * Whether the error says that the connection is gone: by its code, or as node-postgres words it without one. Or that it
 * leads to a server that is no primary.
 */
export function isConnectionLost(error: unknown): boolean {
  if (error instanceof TakesNoWrites) return true;
  const state = sqlState(error);
  if (state !== undefined) return CONNECTION_LOST.has(state) || state.startsWith('08');
  return (
    error instanceof Error &&
    /Connection terminated|connection timeout|timeout expired|Client has encountered a connection error|timeout exceeded when trying to connect/i.test(
      error.message,
    )
  );
}

/**
 * Whether a statement has failed with an error of class 08 (connection exception) while its own connection goes on: a
 * wrong number of values, a foreign server that is away, a RAISE. The server says where in its source that was; a pooler,
 * which uses the class for the connections that it has lost, does not. After a FATAL error the server ends the connection.
 */
export function isRaisedByStatement(error: unknown): boolean {
  const state = sqlState(error);
  if (state?.startsWith('08') !== true || state === RESOLUTION_UNKNOWN) return false;
  const { routine, severity } = error as { readonly routine?: unknown; readonly severity?: unknown };
  return routine !== undefined && severity !== 'FATAL' && severity !== 'PANIC';
}

/** Whether the connection is gone on which a statement has failed: an error of that class alone does not say so. */
export function isSessionLost(error: unknown): boolean {
  return isConnectionLost(error) && !isRaisedByStatement(error);
}
