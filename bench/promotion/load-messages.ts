import type { Side } from '../../src/side.js';

/** How the application reaches its databases; handed over in the environment, since it holds a password. */
export interface LoadSettings {
  /** `router`: verdigris/router. `pool`: one pool a side, and somebody says which one it uses. */
  readonly by: 'router' | 'pool';
  readonly migration: string;
  readonly uris: Readonly<Record<Side, string>>;
  readonly connections: number;
  readonly perSecond: number;
}

/** What became of a payment. */
export const OUTCOME = { underWay: 0, acknowledged: 1, failed: 2 } as const;

/** What the application saw: lists of the same length, with a place for each payment, in the order of their moments. */
export interface LoadResult {
  /** The payment's number. */
  readonly number: Float64Array;
  /** When each payment was due, ms since 1970. */
  readonly due: Float64Array;
  /** From then until its answer, ms. */
  readonly took: Float64Array;
  readonly outcome: Uint8Array;
  /** Failed payments that have no place in the lists: nobody has written their numbers down. */
  readonly failedWithoutNumber: number;
  /** Failed payments by what was said of them. */
  readonly errors: Readonly<Record<string, number>>;
  /** Payments that met the fence and were run again by the router. */
  readonly retried: number;
}

export type LoadRequest = { readonly id: number } & ({ readonly use: Side } | { readonly finish: true });

export type LoadReply =
  { readonly ready: true } | { readonly id: number } | { readonly id: number; readonly result: LoadResult };
