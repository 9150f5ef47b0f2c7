/*
 * Parameters of a connection's URI. Two read it: the worker, by node-postgres, and the other server, by libpq, where no
 * _PEER says otherwise. They don't know the same ones, and libpq refuses what it does not know.
 */

/** What the worker goes by; all others change nothing for it. */
const FOR_WORKER = new Set('host port user password ssl sslmode sslcert sslkey sslrootcert uselibpqcompat'.split(' '));

/** What libpq knows, of any version. Source: PostgreSQL documentation, "Parameter Key Words". */
const FOR_LIBPQ = new Set(
  `host hostaddr port dbname user password passfile require_auth channel_binding connect_timeout client_encoding options
   application_name fallback_application_name keepalives keepalives_idle keepalives_interval keepalives_count
   tcp_user_timeout replication gssencmode sslmode requiressl sslnegotiation sslcompression sslcert sslkey sslkeylogfile
   sslpassword sslcertmode sslrootcert sslcrl sslcrldir sslsni requirepeer ssl_min_protocol_version
   ssl_max_protocol_version min_protocol_version max_protocol_version krbsrvname gsslib gssdelegation scram_client_key
   scram_server_key service servicefile target_session_attrs load_balance_hosts oauth_issuer oauth_client_id
   oauth_client_secret oauth_scope`.split(/\s+/),
);

/** The names of parameters that the worker makes nothing of. Without their values, which may be secret. */
export function ignoredParameters(uri: string): string[] {
  const parameters = parametersOf(uri);
  // What stands before an `@` may be the end of a password that has a `?` in it: only what libpq knows is a name for sure.
  const isName = parameters.join('').includes('@') ? (name: string) => FOR_LIBPQ.has(name) : () => true;
  return [...new Set(parameters.map(nameOf))].filter((name) => !FOR_WORKER.has(name) && isName(name));
}

/** The same URI for libpq: without what only node-postgres knows, and with its words for TLS. */
export function forLibpq(uri: string): string {
  const parameters = parametersOf(uri);
  const hasMode = parameters.some((parameter) => nameOf(parameter) === 'sslmode');
  const kept = parameters.flatMap((parameter) => {
    const name = nameOf(parameter);
    if (name === 'ssl') return hasMode ? [] : [`sslmode=${/=(0|false)$/.test(parameter) ? 'disable' : 'require'}`];
    // TLS whose certificate nobody looks at.
    if (parameter === 'sslmode=no-verify') return ['sslmode=require'];
    return FOR_LIBPQ.has(name) ? [parameter] : [];
  });
  const [base = uri] = uri.split('?', 1);
  return kept.length === 0 ? base : `${base}?${kept.join('&')}`;
}

function parametersOf(uri: string): string[] {
  const at = uri.indexOf('?');
  return at < 0
    ? []
    : uri
        .slice(at + 1)
        .split('&')
        .filter((parameter) => parameter !== '');
}

function nameOf(parameter: string): string {
  return parameter.split('=', 1)[0] ?? '';
}
