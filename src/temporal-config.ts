import { loadClientConnectConfig, type ClientConnectConfig } from '@temporalio/envconfig';

/** Prefix of headers, of which an empty one takes that of the profile away. */
const HEADER = 'TEMPORAL_GRPC_META_';

/**
 * Where Temporal is and how it is reached, as its own CLI reads it: from the environment, and from a profile where that says
 * nothing. A variable that is empty counts as not set, and what stands around a key (the line break of `echo`) is left out.
 *
 * @param profile default: `TEMPORAL_PROFILE`, else `default`
 * @throws Error when there is no such profile, it can't be read, or a key holds what no header can: without the key
 */
export function temporalConfig(profile?: string, environment: NodeJS.ProcessEnv = process.env): ClientConnectConfig {
  const config = loadClientConnectConfig({
    ...(profile === undefined ? {} : { profile }),
    overrideEnvVars: Object.fromEntries(
      Object.entries(environment).flatMap(([name, value = '']) =>
        value !== '' || name.startsWith(HEADER) ? [[name, value]] : [],
      ),
    ),
  });
  const { apiKey, metadata } = config.connectionOptions;
  for (const [name, value] of Object.entries(metadata ?? {})) {
    if (typeof value === 'string') refuseUnsendable(`the header "${name}"`, value);
  }
  if (typeof apiKey !== 'string') return config;
  const trimmed = apiKey.trim();
  refuseUnsendable('TEMPORAL_API_KEY, or the api_key of the profile,', trimmed);
  return { ...config, connectionOptions: { ...config.connectionOptions, apiKey: trimmed } };
}

/** gRPC's own error quotes the whole value. */
function refuseUnsendable(what: string, value: string): void {
  if (/^[\x20-\x7e]*$/.test(value)) return;
  throw new Error(`${what} has a character that can't be sent: write it anew, without line breaks and special spaces`);
}

/** What the environment holds of Temporal that must not be read by others. */
export function temporalSecrets(environment: NodeJS.ProcessEnv): string[] {
  return Object.entries(environment).flatMap(([name, value = '']) =>
    name === 'TEMPORAL_API_KEY' || name.startsWith(HEADER) ? [value.trim()] : [],
  );
}
