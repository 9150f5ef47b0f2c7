import type pg from 'pg';
import { parse } from 'pg-connection-string';
import { VerdigrisError } from '../errors.js';
import { connectionVariable, type Database, type Databases } from '../postgres/session.js';
import type { Webhook } from '../notify/signed-post.js';
import type { Side } from '../side.js';
import { temporalSecrets } from '../temporal-config.js';
import { forLibpq, ignoredParameters } from './connection-uri.js';
import { withoutUser } from './http-endpoints.js';
import { filesRead, readSecretFile, valueOf } from './secret-file.js';

/*
 * Connections by name. A plan holds names only; the worker reads
 *   VERDIGRIS_CONNECTION_<NAME>        a URI: postgres://user:password@host:port/database?sslmode=...
 *   VERDIGRIS_CONNECTION_<NAME>_FILE   or a file that holds it, as secret stores mount them
 *   VERDIGRIS_CONNECTION_<NAME>_PEER   how the *other* database server reaches this one, where that differs
 *                                      (another network, another user with REPLICATION); default: the same, without
 *                                      what libpq does not know
 *   VERDIGRIS_CONNECTION_<NAME>_PEER_FILE  or a file that holds that
 * A variable that is empty is not set.
 */

/** What a plan says of its databases: all that is needed to reach them. */
export type Connections = Readonly<Record<Side, { readonly connection: string }>>;

export type Environment = Readonly<Record<string, string | undefined>>;

/** Both databases of a plan, as this worker reaches them. @throws VerdigrisError ConnectionUnknown, PlanInvalid */
export function databasesOf(plan: Connections, environment: Environment): Databases {
  return {
    blue: databaseOf('blue', plan.blue.connection, environment),
    green: databaseOf('green', plan.green.connection, environment),
  };
}

/**
 * The names of the connections that this environment knows, as they stand in the variables: `SHOP_BLUE`. What belongs to
 * one, such as SHOP_BLUE_PEER, makes no connection.
 */
export function knownConnections(environment: Environment): string[] {
  const names = Object.entries(environment).flatMap(([key, value]) => {
    const name = /^VERDIGRIS_CONNECTION_(.+?)(_FILE)?$/.exec(key)?.[1];
    return name === undefined || value === undefined || value === '' ? [] : [name];
  });
  return [...new Set(names)].filter((name) => !/._(SECRET|TOKEN|PEER)$/.test(name));
}

function databaseOf(side: Side, connection: string, environment: Environment): Database {
  const uri = uriOf(side, connection, environment);
  const variable = variableOf(connection);
  // One that can't be used is refused at once.
  clientConfig(uri, variable);
  return {
    side,
    connection,
    get config() {
      return clientConfig(uriOf(side, connection, environment), variable);
    },
    peerConninfo: valueOf(`${variable}_PEER`, environment) ?? forLibpq(uri),
    ignoredParameters: ignoredParameters(uri),
  };
}

/**
 * How something else than the two databases is reached, such as the admin console of a PgBouncer.
 *
 * @param what it is, as the error says it
 * @throws VerdigrisError ConnectionUnknown
 */
export function connectionConfig(what: string, connection: string, environment: Environment): pg.ClientConfig {
  return clientConfig(uriOf(what, connection, environment), variableOf(connection));
}

/**
 * Where a webhook is: its URL from VERDIGRIS_CONNECTION_<NAME>, what it signs with from VERDIGRIS_CONNECTION_<NAME>_SECRET.
 *
 * @throws VerdigrisError ConnectionUnknown
 */
export function webhookOf(connection: string, environment: Environment, what = 'notify'): Webhook {
  const url = uriOf(what, connection, environment);
  const variable = variableOf(connection);
  const address = /^https?:\/\/[^/]/.test(url) ? withoutUser(url) : undefined;
  if (address === undefined) {
    throw new VerdigrisError({
      type: 'ConnectionUnknown',
      message: `${variable} is not the URL of a webhook`,
      nextStep:
        'write https://host/path or https://user:password@host/path where the worker runs, with special characters percent-encoded, and restart it',
    });
  }
  return { ...address, secret: valueOf(`${variable}_SECRET`, environment) ?? null };
}

/**
 * The same for a webhook that moves traffic: it must be able to tell who calls, so there is a secret.
 *
 * @throws VerdigrisError ConnectionUnknown
 */
export function signingWebhookOf(connection: string, environment: Environment): Webhook {
  const webhook = webhookOf(connection, environment, 'traffic.webhooks');
  if (webhook.secret !== null) return webhook;
  const variable = `${variableOf(connection)}_SECRET`;
  throw new VerdigrisError({
    type: 'ConnectionUnknown',
    message: `traffic.webhooks: the worker has nothing to sign calls of "${connection}" with`,
    nextStep: `set ${variable} (or ${variable}_FILE) where the worker runs and restart it, and have the receiver check signatures`,
  });
}

function variableOf(connection: string): string {
  return `VERDIGRIS_CONNECTION_${connectionVariable(connection)}`;
}

/** What this environment says of a connection. @throws VerdigrisError ConnectionUnknown */
export function uriOf(what: string, connection: string, environment: Environment): string {
  const variable = variableOf(connection);
  const uri = valueOf(variable, environment);
  if (uri !== undefined) return uri;
  const known = knownConnections(environment);
  throw new VerdigrisError({
    type: 'ConnectionUnknown',
    message: `${what}: the worker knows no connection "${connection}"; it knows ${known.length === 0 ? 'none' : known.join(', ')}`,
    nextStep: `set ${variable} (a URI) where the worker runs and restart it, or mend the name in the plan`,
  });
}

function clientConfig(uri: string, variable: string): pg.ClientConfig {
  if (!/^postgres(ql)?:\/\//.test(uri)) throw notAUri(variable);
  let options;
  try {
    options = parse(uri);
  } catch (error) {
    throw notParsed(variable, error);
  }
  const { host, port, user, password, database, ssl } = options;
  return {
    ...(host === null || host === undefined ? {} : { host }),
    ...(port === null || port === undefined || port === '' ? {} : { port: Number(port) }),
    ...(user === undefined ? {} : { user }),
    ...(password === undefined ? {} : { password }),
    ...(database === null || database === undefined ? {} : { database }),
    ...(ssl === undefined ? {} : { ssl: ssl === 'false' ? false : (ssl as pg.ClientConfig['ssl'] & object) }),
  };
}

/** The parser's own message may quote the URI. It reads the files of certificates, too. */
function notParsed(variable: string, error: unknown): VerdigrisError {
  const isFile = error instanceof Error && 'syscall' in error;
  const lacksAuthority = error instanceof Error && error.message.includes('sslmode=verify-ca requires');
  if (!isFile && !lacksAuthority) return notAUri(variable);
  return new VerdigrisError({
    type: 'ConnectionUnknown',
    message: isFile
      ? `a file that sslrootcert, sslcert or sslkey of ${variable} names can't be read by the worker`
      : `sslmode=verify-ca of ${variable} needs an sslrootcert`,
    nextStep: `mend ${variable} where the worker runs; what only the other server has goes into ${variable}_PEER`,
  });
}

function notAUri(variable: string): VerdigrisError {
  return new VerdigrisError({
    type: 'ConnectionUnknown',
    message: `${variable} is not a postgres:// URI`,
    nextStep:
      'write postgres://user:password@host:port/database, with special characters percent-encoded: one host, an IPv6 address in [ ], nothing around it',
  });
}

/** Every password and key that this environment holds: what must be cut out of any text that leaves the worker. */
export function secretsOf(environment: Environment): string[] {
  const ours = Object.entries(environment).flatMap(([key, value]) => {
    const isSecret = key.startsWith('VERDIGRIS_CONNECTION_') || key.startsWith('VERDIGRIS_APPROVAL_SECRET');
    if (!isSecret || value === undefined || value === '') return [];
    try {
      const text = key.endsWith('_FILE') ? readSecretFile(value, key) : value;
      return [text, ...passwordsIn(text)];
    } catch {
      return [];
    }
  });
  return [...ours, ...temporalSecrets(environment)];
}

/** The same for what files have held meanwhile: passwords are changed while a worker runs. */
export function secretsRead(): string[] {
  return filesRead().flatMap((text) => [text, ...passwordsIn(text)]);
}

function passwordsIn(text: string): string[] {
  const encoded = /^[^:]+:\/\/[^:@/]*:([^@]*)@/.exec(text)?.[1] ?? '';
  const address = withoutUser(text);
  const sent = address?.authorization === undefined ? [] : [address.url, address.authorization];
  return encoded === '' ? sent : [encoded, decoded(encoded), ...sent];
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
