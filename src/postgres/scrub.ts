import pg from 'pg';
import type { Database } from './session.js';

/**
 * The message of an error without what only the owners of the databases should read: passwords, hosts, users and
 * connection strings. PostgreSQL and libpq quote them freely.
 */
export function withoutSecrets(error: unknown, databases: readonly Database[]): string {
  let text = error instanceof Error ? error.message : String(error);
  // First, since a piece in which something has been replaced is not found in the string.
  for (const { peerConninfo } of databases) text = withoutPieces(text, peerConninfo);
  for (const secret of databases.flatMap(secretsOf)) text = text.replaceAll(secret, '***');
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
  const readings = readingsOf(conninfo);
  return text
    .replace(/(invalid connection string syntax: )[\s\S]*/, `$1${HOW_TO_WRITE}`)
    .replaceAll(BETWEEN_QUOTES, (between) => {
      const piece = between.trim();
      const isTold = readings.some((reading) => touchesPassword(piece, reading));
      return isTold ? between.replace(piece, '***') : between;
    });
}

const HOW_TO_WRITE =
  'a value with spaces or quotes stands in single quotes, in a URI special characters are percent-encoded';

/**
 * The quotes of libpq's translations, of which one opens what another closes. What stands between any two of them is looked
 * at, since a piece may have a quote in it itself.
 */
const BETWEEN_QUOTES = /[^"“”„«»「」]+/g;

/** A connection string with the place of its password. */
interface Reading {
  readonly before: string;
  /** With what may be a part of it: up to the next keyword, in a URI up to the last `@`. */
  readonly password: string;
  readonly behind: string;
}

/** As it is written and as libpq reads it. */
function readingsOf(conninfo: string): readonly Reading[] {
  const isUri = /^postgres(?:ql)?:/.test(conninfo);
  const found = (isUri ? PASSWORD_IN_URI : PASSWORD_BY_KEYWORD).exec(conninfo);
  if (found === null) return [];
  const [, before = '', password = '', behind = ''] = found;
  const read = isUri ? decodedWherePossible : unescaped;
  return [
    { before, password, behind },
    { before: read(before), password: read(password), behind: read(behind) },
  ];
}

const PASSWORD_IN_URI = /^([^:]*:\/\/[^:@]*:)(.*)(@.*)$/s;
const PASSWORD_BY_KEYWORD = /^(.*?password\s*=)(.*?)((?:\s(?:host|hostaddr|port|user|dbname|sslmode)\s*=.*)?)$/s;

/**
 * Whether a piece of the string has something of the password in it: where libpq takes the string apart otherwise than it
 * was meant, a piece begins before the password or goes on behind it.
 */
function touchesPassword(piece: string, { before, password, behind }: Reading): boolean {
  if (piece.length < 2 || password === '') return false;
  const whole = before + password + behind;
  const end = before.length + password.length;
  // The first place at which it could reach into the password.
  const at = whole.indexOf(piece, Math.max(0, before.length - piece.length + 1));
  return at !== -1 && at < end;
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
  return [...conninfo.matchAll(/(?:password|host|hostaddr)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|(\S+))/gi)].map((match) =>
    match[1] === undefined ? (match[2] ?? '') : unescaped(match[1]),
  );
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Also of a text with a `%` that stands for itself. */
function decodedWherePossible(text: string): string {
  return text.replaceAll(/(?:%[0-9a-f]{2})+/gi, decoded);
}

function unescaped(text: string): string {
  return text.replaceAll(/\\(.)/gs, '$1');
}
