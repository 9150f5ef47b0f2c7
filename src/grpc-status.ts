import { isGrpcServiceError } from '@temporalio/client';

/** Codes of gRPC of a server that answers, and knows the client not or not as somebody who may. */
export const REFUSED: ReadonlySet<number> = new Set([7, 16]); // PERMISSION_DENIED, UNAUTHENTICATED

/** Whether the error, or what it was made of, has one of these status codes of gRPC. */
export function hasStatus(error: unknown, codes: ReadonlySet<number>): boolean {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if (isGrpcServiceError(cause) && codes.has(cause.code)) return true;
  }
  return false;
}

/** The innermost message of an error: what the server, or the workflow, has said. */
export function innermostMessage(error: unknown): string {
  let message = String(error);
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    message = isGrpcServiceError(cause) ? cause.details : cause.message;
  }
  return message;
}
