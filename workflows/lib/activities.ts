import type { Duration } from '@temporalio/common';
import { ActivityCancellationType, proxyActivities } from '@temporalio/workflow';
import type { Activities } from '../../activities/index.js';

/*
 * Every activity is idempotent and heartbeats, so one policy serves all: try again for as long as the cause can pass
 * by itself (a server that is away), fail at once when somebody must do something. A run holds by retrying.
 */
const POLICY = {
  // Explicit: the default is TRY_CANCEL, and compensation would begin while the activity still writes.
  cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
  heartbeatTimeout: '15s',
  startToCloseTimeout: '30 days',
  retry: { initialInterval: '1s', backoffCoefficient: 2, maximumInterval: '20s' },
} as const;

/** The activities, with the line that the timeline shows beside their type. */
export function act(summary: string): Activities {
  return proxyActivities<Activities>({ ...POLICY, summary });
}

const FAST = {
  ...POLICY,
  heartbeatTimeout: '3s',
  retry: { initialInterval: '200ms', backoffCoefficient: 1.5, maximumInterval: '5s' },
} as const;
const UNLESS_NOT_OPENED = { ...FAST.retry, nonRetryableErrorTypes: ['NotOpened'] };

/**
 * For the promotion, and for what ends one: a worker that dies while writes are closed on both sides, or clients of poolers
 * wait, must be replaced within seconds.
 */
export function actFast(summary: string): Activities {
  return proxyActivities<Activities>({ ...FAST, summary });
}

/** The same, until it is decided and the new side can't be opened: the run tells that, and goes on with it. */
export function actFastToDecision(summary: string): Activities {
  return proxyActivities<Activities>({ ...FAST, retry: UNLESS_NOT_OPENED, summary });
}

/** The same, given up after so many tries with what the last one has met: the run says it, and begins it again. */
export function actFastUpTo(summary: string, maximumAttempts: number): Activities {
  return proxyActivities<Activities>({ ...FAST, retry: { ...FAST.retry, maximumAttempts }, summary });
}

/**
 * For what follows a decision, and must not keep the run for longer than `within`: it fails then, with what it has met
 * last. Half of it may be done; it looks before it acts. That the new side has to be opened by somebody is told at once.
 */
export function actFastWithin(summary: string, within: Duration): Activities {
  return proxyActivities<Activities>({ ...FAST, scheduleToCloseTimeout: within, retry: UNLESS_NOT_OPENED, summary });
}

/**
 * For a stage, and for the last reads on blue: what keeps it from opening, or them there, is for the run to say, and to try
 * again. Everything else is tried as above.
 */
export function actOpening(summary: string): Activities {
  return proxyActivities<Activities>({
    ...POLICY,
    retry: {
      ...POLICY.retry,
      nonRetryableErrorTypes: [
        ...['GateFailed', 'FlagsNotWritten', 'WeightsNotSet', 'ConnectionFailed'],
        // The gates of the stage in force are watched meanwhile.
        'ConnectionUnknown',
      ],
    },
    summary,
  });
}

/** For what is tried until it is done, in rounds of so many tries: after each of them the run says what the last one has met. */
export function actUpTo(summary: string, maximumAttempts: number): Activities {
  return proxyActivities<Activities>({ ...POLICY, retry: { ...POLICY.retry, maximumAttempts }, summary });
}

/** For compensations: they run to their end, but one that can't succeed must not keep the others from running. */
export function actBounded(summary: string): Activities {
  return proxyActivities<Activities>({
    ...POLICY,
    retry: { initialInterval: '500ms', backoffCoefficient: 2, maximumInterval: '10s', maximumAttempts: 20 },
    summary,
  });
}
