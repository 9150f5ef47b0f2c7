/** SQLSTATEs of a login that a server refuses: invalid_authorization_specification, invalid_password. */
const REFUSED: readonly string[] = ['28000', '28P01'];

/** Whether a server does not let a user in: by what its pg_hba.conf says, or for the password. */
export function isRefusedLogin(sqlState: string | undefined): boolean {
  return sqlState !== undefined && REFUSED.includes(sqlState);
}

/** The same by the message of a failure: its first line ends with the SQLSTATE. */
export function tellsOfRefusedLogin(message: string): boolean {
  const [line = ''] = message.split('\n', 1);
  return REFUSED.some((state) => line.endsWith(`(${state})`));
}
