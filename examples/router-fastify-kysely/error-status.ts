import type { RouterError, WriteMovedError } from 'verdigris/router';

/**
 * What a client is told of an error of the router's.
 *
 * - 503: nothing was done. It may simply be repeated.
 * - 409: it, or a part of it, may have been done. The client looks what is there before it repeats anything.
 * - 500: a fault of this service, which no repetition mends.
 */
export function statusOf(error: RouterError): 409 | 500 | 503 {
  switch (error.code) {
    case 'OutcomeUnknown':
    case 'TransactionControl':
      return 409;
    case 'WriteMoved':
      return (error as WriteMovedError).nothingWasDone ? 503 : 409;
    case 'WriteTimeout':
    case 'TransactionAborted':
      return 503;
    case 'NotSupported':
      return 500;
  }
}
