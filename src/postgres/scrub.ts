import pg from 'pg';
import type { Database } from './session.js';

/**
 * The message of an error without what only the owners of the databases should read: passwords, hosts, users and
 * connection strings. PostgreSQL and libpq quote them freely.
 */
export function withoutSecrets(error: unknown, databases: readonly Database[]): string {
  let text = error instanceof Error ? error.message : String(error);
  for (const secret of databases.flatMap(secretsOf)) text = text.replaceAll(secret, '***');
  for (const { peerConninfo } of databases) text = withoutPieces(text, peerConninfo);
  return withoutPeer(text)
    .replaceAll(/password\s*=\s*('(?:[^'\\]|\\.)*'|\S+)/gi, 'password=***')
    .replaceAll(/postgres(?:ql)?:\/\/\S+/gi, '***')
    .replaceAll(/connection to server (?:at|on socket) .*? failed:/g, 'connection to server failed:');
}

/**
 * What libpq says of a string that it reads otherwise than it was meant quotes the piece at which it stumbles. That may be
 * a part of a password with a space, a quote or a `/` in it, which no comparison with the whole password finds.
 */
function withoutPieces(text: string, conninfo: string): string {
  const password = aroundPassword(conninfo);
  return text
    .replace(/(invalid connection string syntax: )[\s\S]*/, `$1${HOW_TO_WRITE}`)
    .replaceAll(/(["»„])([^"»«„“”\n]{2,})(["«“”])/g, (quoted: string, opened: string, piece: string, closed: string) =>
      password.includes(piece) ? `${opened}***${closed}` : quoted,
    );
}

const HOW_TO_WRITE =
  'a value with spaces or quotes stands in single quotes, in a URI special characters are percent-encoded';

/** Where the password stands, with what may be a part of it: up to the next keyword, in a URI up to the last `@`. */
function aroundPassword(conninfo: string): string {
  if (/^postgres(?:ql)?:/.test(conninfo)) return /^[^:]*:\/\/[^:@]*:([\s\S]*)@/.exec(conninfo)?.[1] ?? '';
  return /password\s*=([\s\S]*?)(?:\s(?:host|hostaddr|port|user|dbname|sslmode)\s*=|$)/.exec(conninfo)?.[1] ?? '';
}

/** Whoever could not connect is told of with the names that it came under: `no pg_hba.conf entry for host "10.0.0.7", user "x"`. */
function withoutPeer(text: string): string {
  if (!/could not connect|connection to server|could not translate/.test(text)) return text;
  return text.replaceAll(/\b(user|role|host|host name|address) "[^"]*"/g, '$1 "***"');
}

/** The longest first: a host may be part of a connection string. */
function secretsOf(database: Database): string[] {
  const client = new pg.Client(database.config);
  const password = typeof client.password === 'string' ? client.password : undefined;
  return [database.peerConninfo, password, client.host, ...secretsOfConninfo(database.peerConninfo)]
    .filter((secret): secret is string => typeof secret === 'string' && secret.length >= 3)
    .sort((a, b) => b.length - a.length);
}

/** Hosts and passwords of a libpq connection string, which may be a URI or a list of keywords. */
function secretsOfConninfo(conninfo: string): string[] {
  const uri = /^postgres(?:ql)?:\/\/(?:[^:@/?]*(?::([^@/?]*))?@)?([^:/?]*)/.exec(conninfo);
  if (uri !== null) return [uri[1], uri[2]].flatMap((part) => (part === undefined ? [] : [part, decoded(part)]));
  return [...conninfo.matchAll(/(?:password|host|hostaddr)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|(\S+))/gi)].map(
    (match) => match[1]?.replaceAll(/\\(.)/g, '$1') ?? match[2] ?? '',
  );
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
