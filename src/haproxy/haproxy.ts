import type { Side } from '../side.js';

/** Where a runtime API listens: a Unix socket, or TCP. */
export type RuntimeAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/** One HAProxy process, as the worker reaches it. */
export interface Haproxy {
  /** The plan's name of the connection to its runtime API: all that logs and errors may show. */
  readonly connection: string;
  readonly address: RuntimeAddress;
}

/** The HAProxies of one migration, and the two servers between which their weights share new connections. */
export interface Haproxies {
  readonly migration: string;
  readonly instances: readonly Haproxy[];
  readonly backend: string;
  /** Names of the servers in that backend. */
  readonly servers: Readonly<Record<Side, string>>;
  /** What happens to the connections to green that are there when reads go back to blue. */
  readonly openConnections: 'cut' | 'leave';
}
