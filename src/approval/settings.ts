import { VerdigrisError } from '../errors.js';
import type { Environment } from '../worker/connections.js';
import { unlessEmpty, valueOf } from '../worker/secret-file.js';

/** With a shorter secret links could be made by trying. */
const LEAST_SECRET = 32;

/** What links are signed with: VERDIGRIS_APPROVAL_SECRET, or the file that VERDIGRIS_APPROVAL_SECRET_FILE names. */
export function approvalSecret(environment: Environment): string | undefined {
  const secret = valueOf('VERDIGRIS_APPROVAL_SECRET', environment);
  if (secret === undefined) return undefined;
  if (secret.length >= LEAST_SECRET) return secret;
  throw new VerdigrisError({
    type: 'ConnectionUnknown',
    message: `VERDIGRIS_APPROVAL_SECRET is shorter than ${LEAST_SECRET} characters`,
    nextStep: 'make one with: openssl rand -hex 32; give the same to the worker and to `verdigris approvals serve`',
  });
}

/** Where people reach `verdigris approvals serve`: VERDIGRIS_APPROVAL_URL. */
export function approvalUrl(environment: Environment): string | undefined {
  return unlessEmpty(environment['VERDIGRIS_APPROVAL_URL']);
}

/** What the links of a notification are made with; undefined where this worker makes none; or why it can't. */
export function approvalSigning(
  environment: Environment,
):
  { readonly secret: string; readonly base: string } | { readonly why: string; readonly nextStep: string } | undefined {
  const base = approvalUrl(environment);
  if (base === undefined) return undefined;
  try {
    const secret = approvalSecret(environment);
    return secret === undefined ? undefined : { secret, base };
  } catch (error) {
    if (!(error instanceof VerdigrisError)) throw error;
    return { why: error.what, nextStep: error.nextStep };
  }
}
