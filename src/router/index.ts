/**
 * `verdigris/router`: two connection pools behind one object that knows, from the databases alone, where a user's reads
 * and everybody's writes belong while a migration runs.
 *
 * @module
 */
export { createRouter } from './create-router.js';
export type { RequestOptions, RoutedResult, Router, TransactionOptions } from './router.js';
export type { RouterOptions } from './options.js';
export type { Consistency } from './read-routing.js';
export type { RouterLogger } from './logger.js';
export type { IsolationLevel, Transaction, TransactionFunction } from './transaction.js';
export type { Route } from '../postgres/state.js';
export type { Side } from '../side.js';
export {
  CommitOutcomeUnknownError,
  NotSupportedError,
  RouterError,
  TransactionAbortedError,
  TransactionControlError,
  WriteMovedError,
  WriteTimeoutError,
  type RouterErrorCode,
} from './errors.js';
export { inCohort } from './cohort.js';
export { signedTokens, type SignedTokens } from './signed-tokens.js';
export type { MirrorOptions } from './mirror.js';
