import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';

/** How a router or a provider of the flag is called in `verdigris.router`. */
export interface InstanceName {
  /** What the application calls the process; undefined where it gives no name. */
  readonly given: string | undefined;
  /**
   * Key of its row: with a random part, since several routers and providers may be given one name (of a pod, of a host), and
   * two that wrote one row would pass for each other.
   */
  readonly unique: string;
}

/** @param given Default: host and process id. */
export function instanceName(given?: string): InstanceName {
  return { given, unique: `${given ?? `${hostname()}-${process.pid}`}-${randomBytes(3).toString('hex')}` };
}
