import type { AuditResult } from './audit.js';
import type { ShopStatistics, Window } from './measurements.js';

/** What the shop's parent process asks of it. */
export type ShopRequest =
  | { readonly ask: 'statistics' }
  /** From now on so many requests a second; what was measured until now is forgotten. */
  | { readonly ask: 'rate'; readonly rate: number }
  /** A part of the run begins: counters of the error rate go there from now on. */
  | { readonly ask: 'window'; readonly window: Window }
  /** The longest write between two moments, in milliseconds since 1970. */
  | { readonly ask: 'longestWrite'; readonly from: number; readonly to: number }
  /** Stops the load, waits for the last answers, and holds the databases against the ledger. */
  | { readonly ask: 'audit' };

export interface ShopAnswers {
  readonly statistics: ShopStatistics;
  readonly window: null;
  readonly rate: null;
  readonly longestWrite: number;
  readonly audit: AuditResult;
}

export type ShopQuestion = ShopRequest & { readonly id: number };
export type ShopReply =
  | { readonly ready: { readonly port: number } }
  | { readonly id: number; readonly answer: unknown }
  | { readonly id: number; readonly error: string };
