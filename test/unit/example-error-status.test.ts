import { expect, it } from 'vitest';
import { statusOf } from '../../examples/router-fastify-kysely/error-status.js';
import {
  CommitOutcomeUnknownError,
  NotSupportedError,
  TransactionAbortedError,
  TransactionControlError,
  WriteMovedError,
  WriteTimeoutError,
} from '../../src/router/index.js';

it('the example has clients repeat only what was not done, and can be', () => {
  const cause = new Error('the cause');
  expect(statusOf(new WriteTimeoutError(10_000, cause))).toBe(503);
  expect(statusOf(new TransactionAbortedError(cause))).toBe(503);
  expect(statusOf(new WriteMovedError('blue', true, cause))).toBe(503);
  expect(statusOf(new WriteMovedError('blue', false, cause))).toBe(409);
  expect(statusOf(new CommitOutcomeUnknownError('blue', cause))).toBe(409);
  expect(statusOf(new TransactionControlError('write'))).toBe(409);
  expect(statusOf(new NotSupportedError('LISTEN', 'a connection of your own'))).toBe(500);
});
