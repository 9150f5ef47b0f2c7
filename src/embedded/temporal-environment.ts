import { fileURLToPath } from 'node:url';

/**
 * The environment of a process that talks to the embedded Temporal server and to no other: the TEMPORAL_* variables and
 * the profile of the developer, which may name a production cluster and its keys, are left out.
 */
export function ownTemporalEnvironment(address?: string): NodeJS.ProcessEnv {
  const rest = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('TEMPORAL_')));
  return {
    ...rest,
    TEMPORAL_CONFIG_FILE: fileURLToPath(new URL('./temporal.toml', import.meta.url)),
    ...(address === undefined ? {} : { TEMPORAL_ADDRESS: address, TEMPORAL_NAMESPACE: 'default' }),
  };
}
