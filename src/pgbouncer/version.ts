import type { Console } from './console.js';

/** Major and minor number. */
export type Version = readonly [number, number];

export function isOlder(version: string, [major, minor]: Version): boolean {
  const [a = 0, b = 0] = version.split('.').map(Number);
  return a < major || (a === major && b < minor);
}

/** From here on a RELOAD leaves connections with TLS alone when nothing about it has changed. */
const KEEPS_TLS: Version = [1, 24];

/** Whether each RELOAD has all connections to the databases opened anew. */
export async function reopensAtReload(control: Console): Promise<boolean> {
  if ((await control.settings()).get('server_tls_sslmode') === 'disable') return false;
  const version = await control.version();
  return version === undefined || isOlder(version, KEEPS_TLS);
}
