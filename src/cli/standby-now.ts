import type { Client, WorkflowExecutionDescription } from '@temporalio/client';
import { firstLine } from '../failure-text.js';
import { isProgress, progressLine } from '../progress.js';

/*
 * While all is well, the run is told twice a day of what its standby window watches all the time. Whoever asks for the status
 * gets what the activities say of themselves, too.
 */

type Pending = NonNullable<WorkflowExecutionDescription['raw']['pendingActivities']>[number];

/** As many lines as there is something to say; none where Temporal does not answer, since the run has. */
export async function readStandbyNow(client: Client, workflowId: string, timeoutMs: number): Promise<string[]> {
  try {
    const { raw } = await client.withDeadline(Date.now() + timeoutMs, () =>
      client.workflow.getHandle(workflowId).describe(),
    );
    return standbyNow(raw.pendingActivities ?? []);
  } catch {
    return [];
  }
}

/** What the watch of the feed, and the regular comparisons, say of themselves. */
export function standbyNow(pending: readonly Pending[]): string[] {
  return pending.flatMap((one) => {
    const said = heartbeatOf(one);
    const failed = failedLine(one);
    if (one.activityType?.name === 'watchStandby') {
      return failed === undefined ? feedLine(said) : [`the feed to blue is not seen: ${failed}`];
    }
    if (one.activityType?.name !== 'compareRegularly') return [];
    return failed === undefined ? comparisonLine(said, one) : [`green and blue can't be compared: ${failed}`];
  });
}

/** `PENDING_ACTIVITY_STATE_SCHEDULED`: between two attempts. */
const WAITS = 1;

/** Why an attempt has failed, where the next one is waited for; what it said in its heartbeats is not of now then. */
function failedLine(one: Pending): string | undefined {
  const { lastFailure, state } = one;
  const isTurn = lastFailure?.applicationFailureInfo?.type === 'NothingNew';
  if (state !== WAITS || lastFailure === null || lastFailure === undefined || isTurn) return undefined;
  const next = nextAttempt(one);
  return `${firstLine(lastFailure.message ?? '')}${next === undefined ? '' : `; tried again at ${next}`}`;
}

/** ISO 8601. */
function nextAttempt({ scheduledTime }: Pending): string | undefined {
  const ms = Number(scheduledTime?.seconds ?? 0) * 1_000;
  return ms === 0 ? undefined : new Date(ms).toISOString();
}

function feedLine({ health, lagSeconds }: Heartbeat): string[] {
  if (typeof health !== 'string') return [];
  return [`feed to blue: ${health}${typeof lagSeconds === 'number' ? `, lag ${lagSeconds.toFixed(3)} s` : ''}`];
}

function comparisonLine({ last, comparing, progress }: Heartbeat, one: Pending): string[] {
  if (typeof comparing === 'string') {
    return [`green and blue are being compared${isProgress(progress) ? `: ${progressLine(progress)}` : ''}`];
  }
  const { at, differingRows } = (typeof last === 'object' && last !== null ? last : {}) as Heartbeat;
  const found =
    typeof at === 'string' ? `green and blue were compared at ${at}, ${String(differingRows)} rows differ; ` : '';
  const next = nextAttempt(one);
  return next === undefined ? [] : [`${found}the next comparison comes at ${next}`];
}

type Heartbeat = Readonly<Record<string, unknown>>;

/** Plain JSON, as our workers write it; nothing of what somebody has encoded in another way. */
function heartbeatOf({ heartbeatDetails }: Pending): Heartbeat {
  const [payload] = heartbeatDetails?.payloads ?? [];
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode(payload?.data ?? new Uint8Array()));
    return typeof value === 'object' && value !== null ? (value as Heartbeat) : {};
  } catch {
    return {};
  }
}
