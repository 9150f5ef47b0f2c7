import { VerdigrisError } from '../errors.js';
import { readProgress, type ProgressKey } from './migrate/progress-row.js';
import type { Session } from './session.js';

/*
 * A run that gives a promotion up hears no more of a worker that Temporal has not heard of for its heartbeat timeout; that
 * one may be between two tries, or before its first, with both databases in reach. So the side that is to give the writes away
 * knows up to which of its requests the run has ended tries, and a try that was asked for by then moves nothing. What was asked
 * when is Temporal's to say: an attempt would have to read a count from that side first, and may be frozen before it does.
 */

/** When the run asked for an activity, which all attempts of it have in common. */
export interface Request {
  /** Temporal's id of the run of the workflow: another one after a reset or a continue-as-new. */
  readonly workflowRun: string;
  /** Activities are counted within a run of the workflow. */
  readonly activity: number;
  /** ms since 1970, by Temporal's clock. */
  readonly at: number;
}

/** The tries of one request for a promotion. */
export interface Tries {
  readonly runId: string;
  readonly asked: Request;
}

/** What an attempt has ended its own tries with, redacted: the next one of the request, where Temporal has not heard of it. */
export interface LastWord {
  readonly type: string;
  readonly message: string;
  readonly details: readonly unknown[];
}

/** What a version that only counted has left says of no request. Its workers still read the count, which goes on. */
type Ended = (Request & { readonly lastWord?: LastWord }) | { readonly at?: undefined };

function key(runId: string): ProgressKey {
  return { runId, step: 'promotion', object: 'tries ended' };
}

/** Whether `a` was asked for no later than `b`. Clocks of Temporal's servers may differ a little, numbers don't. */
function isUpTo(a: Request, b: Request): boolean {
  return a.workflowRun === b.workflowRun ? a.activity <= b.activity : a.at <= b.at;
}

/**
 * From here on no try begins that was asked for by then; one that runs holds the lock of that side's actor. A worker that is late
 * ends nothing that was asked for after it.
 *
 * @param lastWord where it is an attempt of these tries that ends them. Default: the run has them ended
 */
export async function endTries(from: Session, { runId, asked }: Tries, lastWord?: LastWord): Promise<void> {
  const { step, object } = key(runId);
  const ended = (await readProgress<Ended>(from, key(runId)))?.state;
  if (ended?.at !== undefined && isUpTo(asked, ended)) return;
  // Only sessions of this very server ask for it: nobody waits for a standby that may be away.
  await from.query(
    `INSERT INTO verdigris.progress AS p (run_id, step, object, state, done)
     SELECT $1, $2, $3,
            jsonb_build_object('workflowRun', $4::text, 'activity', $5::float8, 'at', $6::float8, 'times', 1)
            || $7::jsonb, true
      WHERE set_config('synchronous_commit', 'local', true) = 'local'
     ON CONFLICT (run_id, step, object)
     DO UPDATE SET state = excluded.state || jsonb_build_object('times', coalesce((p.state ->> 'times')::int, 0) + 1),
                   updated_at = clock_timestamp()
      WHERE CASE WHEN p.state ->> 'workflowRun' = $4 THEN (p.state ->> 'activity')::float8 < $5
                 ELSE coalesce((p.state ->> 'at')::float8, 0) < $6 END`,
    [
      ...[runId, step, object, asked.workflowRun, asked.activity, asked.at],
      JSON.stringify(lastWord === undefined ? {} : { lastWord }),
    ],
  );
}

/**
 * What these tries were ended with by an attempt of their own: it may have died before Temporal has heard of it. All attempts of
 * a request end with the same, since none of them may try any more.
 */
export async function lastWordOf(from: Session, { runId, asked }: Tries): Promise<LastWord | undefined> {
  const ended = (await readProgress<Ended>(from, key(runId)))?.state;
  if (ended?.at === undefined || ended.workflowRun !== asked.workflowRun) return undefined;
  return ended.activity === asked.activity ? ended.lastWord : undefined;
}

/**
 * @param actor the session of the try, which holds the lock of its side's actor: who ends tries and takes that lock next sees
 * what this try has decided
 * @throws VerdigrisError StaleEpoch (retryable: where the promotion is still wanted, it is asked for anew)
 */
export async function refuseEnded(actor: Session, { runId, asked }: Tries): Promise<void> {
  const ended = (await readProgress<Ended>(actor, key(runId)))?.state;
  if (ended?.at === undefined || !isUpTo(asked, ended)) return;
  throw new VerdigrisError({
    type: 'StaleEpoch',
    message: 'the run has ended the tries of this promotion, which its worker has not heard of',
    nextStep: 'nothing: a promotion that is still wanted is begun anew',
    retryable: true,
  });
}
