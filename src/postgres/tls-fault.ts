import { sqlState } from './sqlstate.js';

/**
 * Why two ends did not agree on TLS, in words without names and addresses; undefined when the error is of another kind.
 * Waiting mends none of these: somebody must change a certificate or the connection.
 */
export function tlsFault(error: unknown): string | undefined {
  const code = sqlState(error);
  if (code === undefined) return error instanceof Error ? BY_MESSAGE[error.message] : undefined;
  const known = BY_CODE.find(([codes]) => codes.test(code));
  return known?.[1];
}

/** Codes of node:tls and of the certificates' check (`tls.connect`), the particular ones first. */
const BY_CODE: readonly (readonly [RegExp, string])[] = [
  [/^CERT_HAS_EXPIRED$/, "the server's certificate has expired"],
  [/^CERT_NOT_YET_VALID$/, "the server's certificate is not valid yet: compare the clocks"],
  [/^(ERR_TLS_CERT_ALTNAME_\w+|HOSTNAME_MISMATCH)$/, "the server's certificate is for another host name"],
  [/^CERT_REVOKED$/, "the server's certificate has been revoked"],
  [
    /^(DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_\w+|CERT_UNTRUSTED|INVALID_CA)$/,
    "the server's certificate is of no authority that the worker trusts",
  ],
  [
    /^(CERT_\w+|CRL_\w+|ERROR_IN_\w+|INVALID_PURPOSE|PATH_LENGTH_EXCEEDED)$/,
    "the server's certificate is not accepted",
  ],
  [/^(ERR_TLS_\w+|ERR_SSL_\w+|ERR_OSSL_\w+|EPROTO)$/, 'the two ends do not agree on TLS'],
];

/** Of node-postgres, which gives these no code. */
const BY_MESSAGE: Readonly<Record<string, string>> = {
  'The server does not support SSL connections': 'the server speaks no TLS',
  'There was an error establishing an SSL connection': 'the two ends do not agree on TLS',
};
