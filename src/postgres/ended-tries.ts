import { VerdigrisError } from '../errors.js';
import { readProgress, type ProgressKey } from './migrate/progress-row.js';
import type { Run } from './ownership.js';
import type { Session } from './session.js';

/*
 * A run that gives a promotion up hears no more of a worker that Temporal has not heard of for its heartbeat timeout; that
 * one may be between two tries, with both databases in reach. So blue counts how often the run has ended its tries, and
 * a try that has begun under an earlier count moves nothing. The next promotion of the run begins under the new one.
 */

/** The tries of one attempt of a promotion. */
export interface Tries {
  readonly runId: string;
  /** How often the run had ended its tries when this attempt began. */
  readonly ended: number;
}

function key(runId: string): ProgressKey {
  return { runId, step: 'promotion', object: 'tries ended' };
}

/** Asked before an attempt does anything. */
export async function beginTries(blue: Session, { runId }: Pick<Run, 'runId'>): Promise<Tries> {
  return { runId, ended: (await readProgress<{ times: number }>(blue, key(runId)))?.state.times ?? 0 };
}

/**
 * From here on no try of these begins; one that runs holds the lock of blue's actor. Ended twice, they count once: a
 * worker that is late must not end the tries of the next promotion.
 */
export async function endTries(blue: Session, { runId, ended }: Tries): Promise<void> {
  const { step, object } = key(runId);
  await blue.query(
    `INSERT INTO verdigris.progress AS p (run_id, step, object, state, done)
     VALUES ($1, $2, $3, jsonb_build_object('times', $4::int + 1), true)
     ON CONFLICT (run_id, step, object) DO UPDATE SET state = excluded.state, updated_at = clock_timestamp()
      WHERE p.state -> 'times' = to_jsonb($4::int)`,
    [runId, step, object, ended],
  );
}

/**
 * @param actor the session of the try, which holds the lock of blue's actor: who ends tries and takes that lock next sees
 * what this try has decided
 * @throws VerdigrisError StaleEpoch (retryable: where the promotion is still wanted, its next attempt begins anew)
 */
export async function refuseEnded(actor: Session, tries: Tries): Promise<void> {
  if ((await beginTries(actor, tries)).ended === tries.ended) return;
  throw new VerdigrisError({
    type: 'StaleEpoch',
    message: 'the run has ended the tries of this promotion, which its worker has not heard of',
    nextStep: 'nothing: a promotion that is still wanted is begun anew',
    retryable: true,
  });
}
