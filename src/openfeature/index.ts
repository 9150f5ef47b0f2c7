/**
 * `verdigris/openfeature`: whether a user reads from green, as a feature flag.
 *
 * @module
 */
export { VerdigrisProvider, type VerdigrisProviderOptions } from './provider.js';
export type { RouterLogger } from '../router/logger.js';
