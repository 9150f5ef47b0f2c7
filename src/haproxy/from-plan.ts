import { VerdigrisError } from '../errors.js';
import type { Plan } from '../plan/schema.js';
import { connectionVariable } from '../postgres/session.js';
import { uriOf, type Environment } from '../worker/connections.js';
import type { Haproxies, RuntimeAddress } from './haproxy.js';

/**
 * The HAProxies of a plan; undefined when it names none.
 *
 * @param onUnknown is told of one that the worker does not know, which is left out then
 * @throws VerdigrisError ConnectionUnknown, without `onUnknown`
 */
export function haproxiesOf(
  { name, traffic }: Plan,
  environment: Environment,
  onUnknown?: (error: VerdigrisError) => void,
): Haproxies | undefined {
  const { haproxy } = traffic;
  if (haproxy === undefined) return undefined;
  const instances = haproxy.instances.flatMap((connection) => {
    try {
      return [{ connection, address: addressOf(connection, uriOf('traffic.haproxy', connection, environment)) }];
    } catch (error) {
      if (onUnknown === undefined || !(error instanceof VerdigrisError)) throw error;
      onUnknown(error);
      return [];
    }
  });
  const { backend, blue, green, openConnections } = haproxy;
  return { migration: name, instances, backend, servers: { blue, green }, openConnections };
}

/** `unix:/run/haproxy/admin.sock`, a path, `tcp://host:port` or `host:port`. */
function addressOf(connection: string, text: string): RuntimeAddress {
  const path = /^(?:unix:(?:\/\/)?)?(\/.+)$/.exec(text.trim())?.[1];
  if (path !== undefined) return { path };
  const found = /^(?:tcp:\/\/)?(?:\[([0-9a-fA-F:.]+)\]|([^\s/:@]+)):([0-9]{1,5})\/?$/.exec(text.trim());
  const host = found?.[1] ?? found?.[2];
  const port = Number(found?.[3]);
  if (host !== undefined && port > 0 && port < 65_536) return { host, port };
  throw new VerdigrisError({
    type: 'ConnectionUnknown',
    message: `VERDIGRIS_CONNECTION_${connectionVariable(connection)} is not the address of a runtime API`,
    nextStep: 'write unix:/run/haproxy/admin.sock or tcp://host:port, as "stats socket" in its configuration says',
  });
}
