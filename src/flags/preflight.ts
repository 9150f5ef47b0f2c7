import { VerdigrisError } from '../errors.js';
import type { Plan } from '../plan/schema.js';
import type { PreflightFinding } from '../postgres/preflight/finding.js';
import { refuseUnwritable } from './flagd-file.js';

/** The checks of flags, by name; docs/preflight.md has a row for each. */
export const FLAG_CHECKS = ['flagd-file'] as const;

/** Whether this worker could write the file that the plan names for flagd: it is written only hours later. */
export async function checkFlagdFile({ name, traffic }: Plan): Promise<PreflightFinding[]> {
  if (traffic.flagd === undefined) return [];
  const { path } = traffic.flagd;
  try {
    await refuseUnwritable(path, name);
    return [];
  } catch (error) {
    if (!(error instanceof VerdigrisError)) throw error;
    return [
      {
        severity: 'error',
        check: 'flagd-file',
        side: 'both',
        object: path,
        message: error.what,
        remedy: error.nextStep,
      },
    ];
  }
}
