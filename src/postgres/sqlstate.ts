import { TakesNoWrites } from './in-recovery.js';

/** SQLSTATEs by what they mean to us. Source: PostgreSQL documentation, appendix A. */

/** The statement lost a race or a lock and did nothing: trying again can succeed. */
export const TRY_AGAIN: ReadonlySet<string> = new Set([
  '40001', // serialization_failure
  '40P01', // deadlock_detected
  '55P03', // lock_not_available: lock_timeout, NOWAIT
  '55006', // object_in_use: a slot that is still active
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
  '57P03', // cannot_connect_now
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

/** read_only_sql_transaction: what a server in recovery says to a write, and what the fence raises. */
export const READ_ONLY = '25006';
/** query_canceled: statement_timeout or pg_cancel_backend. */
export const CANCELED = '57014';
/** Ours: raised by the functions of schema verdigris for an epoch that is over. */
export const STALE_EPOCH = 'VDEPO';
/** insufficient_privilege; of rows that policies hide as well. */
export const NO_RIGHT = '42501';
/**
 * DDL that runs right now holds locks that the catalog's functions ask for, or drops what is being read: lock_not_available;
 * internal_error (`cache lookup failed`); undefined_table and undefined_object.
 */
export const SCHEMA_IN_CHANGE: ReadonlySet<string> = new Set(['55P03', 'XX000', '42P01', '42704']);
/** undefined_table. */
export const UNDEFINED_TABLE = '42P01';
/** lock_not_available. */
export const LOCK_NOT_AVAILABLE = '55P03';

/**
 * Whether the server has run out of something: disk, memory, connections, a limit of its configuration (class 53), or
 * can't write a file (58030). It passes when somebody makes room.
 */
export function isOutOfRoom(error: unknown): boolean {
  const state = sqlState(error);
  return state !== undefined && (state.startsWith('53') || state === '58030');
}

/** undefined_function, undefined_table, undefined_object, invalid_schema_name. */
const UNKNOWN_NAMES: ReadonlySet<string> = new Set(['42883', '42P01', '42704', '3F000']);

/** Whether PostgreSQL has not found what a name stands for: the name is wrong, or its schema is not in the search_path. */
export function isUnknownName(error: unknown): boolean {
  return UNKNOWN_NAMES.has(sqlState(error) ?? '');
}

/** Whether current_setting() has not found a setting, as one of the application's own that each of its sessions makes. */
export function isUnknownSetting(error: unknown): boolean {
  // The message is in the server's language; the file of its source is not.
  return sqlState(error) === '42704' && error instanceof Error && 'file' in error && error.file === 'guc.c';
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

/** transaction_resolution_unknown: what an extension may say that commits elsewhere as well. */
const RESOLUTION_UNKNOWN = '08007';

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
