import { VerdigrisError } from '../errors.js';
import type { HttpEndpoint } from '../gates/http-source.js';
import { connectionVariable } from '../postgres/session.js';
import type { Environment } from './connections.js';
import { valueOf } from './secret-file.js';

/*
 * What answers over HTTP, by name. A plan holds names only; the worker reads
 *   VERDIGRIS_CONNECTION_<NAME>              http:// or https://prometheus.example/prefix, or https://user:password@...;
 *                                            several addresses are separated by spaces or commas
 *   VERDIGRIS_CONNECTION_<NAME>_FILE         or a file that holds it
 *   VERDIGRIS_CONNECTION_<NAME>_TOKEN        a bearer token, sent to each of the addresses
 *   VERDIGRIS_CONNECTION_<NAME>_TOKEN_FILE   or a file that holds it, read each time: tokens are renewed
 */

/**
 * Every address of a connection.
 *
 * @param what it is for, as the error says it
 * @throws VerdigrisError ConnectionUnknown, which names the variable and never what it holds
 */
export function httpEndpoints(what: string, connection: string, environment: Environment): HttpEndpoint[] {
  const variable = `VERDIGRIS_CONNECTION_${connectionVariable(connection)}`;
  const addresses = (valueOf(variable, environment) ?? '').split(/[\s,]+/).filter((text) => text !== '');
  if (addresses.length === 0) {
    throw new VerdigrisError({
      type: 'ConnectionUnknown',
      message: `${what}: the worker knows no connection "${connection}"`,
      nextStep: `set ${variable} (an http:// or https:// address) where the worker runs and restart it, or mend the name in the plan`,
    });
  }
  const token = valueOf(`${variable}_TOKEN`, environment);
  return addresses.map((address, i) => {
    const endpoint = withoutUser(address);
    if (endpoint === undefined) throw notAnAddress(variable);
    return {
      name: addresses.length === 1 ? connection : `${connection} (address ${i + 1} of ${addresses.length})`,
      ...endpoint,
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    };
  });
}

/** The one address of a connection. @throws VerdigrisError ConnectionUnknown */
export function httpEndpoint(what: string, connection: string, environment: Environment): HttpEndpoint {
  const [endpoint, another] = httpEndpoints(what, connection, environment);
  if (endpoint !== undefined && another === undefined) return endpoint;
  throw new VerdigrisError({
    type: 'ConnectionUnknown',
    message: `${what}: the connection "${connection}" has several addresses, and one is asked`,
    nextStep: `leave one address in VERDIGRIS_CONNECTION_${connectionVariable(connection)}`,
  });
}

/**
 * fetch refuses an address with a user in it: it goes into a header.
 *
 * @returns undefined for what is no http:// or https:// address, also by a % in user or password that encodes nothing
 */
export function withoutUser(address: string): Pick<HttpEndpoint, 'url' | 'authorization'> | undefined {
  try {
    const url = new URL(address);
    if (url.protocol !== 'http:' && url.protocol !== 'https:') return undefined;
    const [username, password] = [decodeURIComponent(url.username), decodeURIComponent(url.password)];
    url.username = '';
    url.password = '';
    if (username === '' && password === '') return { url: url.href };
    return { url: url.href, authorization: `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}` };
  } catch {
    return undefined;
  }
}

function notAnAddress(variable: string): VerdigrisError {
  return new VerdigrisError({
    type: 'ConnectionUnknown',
    message: `${variable} is not an http:// or https:// address`,
    nextStep: 'write http:// or https://user:password@host:port/path, with special characters percent-encoded',
  });
}
