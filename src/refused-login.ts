import { firstLine } from './failure-text.js';

/** SQLSTATE of a user that the server's pg_hba.conf does not let in, or that may not log in at all. */
export const INVALID_AUTHORIZATION = '28000';
/** SQLSTATE of a wrong password, or user. */
export const INVALID_PASSWORD = '28P01';

const REFUSED: readonly string[] = [INVALID_AUTHORIZATION, INVALID_PASSWORD];

/** Whether a server does not let a user in: by what its pg_hba.conf says, or for the password. */
export function isRefusedLogin(sqlState: string | undefined): boolean {
  return sqlState !== undefined && REFUSED.includes(sqlState);
}

/** The same by the message of a failure: its first line ends with the SQLSTATE. */
export function tellsOfRefusedLogin(message: string): boolean {
  const line = firstLine(message);
  return REFUSED.some((state) => line.endsWith(`(${state})`));
}
