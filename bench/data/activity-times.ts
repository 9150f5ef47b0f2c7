import type { WorkflowHandle } from '@temporalio/client';

/** Where a run's time went: all activities of one type together. */
export interface ActivityTime {
  readonly activity: string;
  readonly count: number;
  /** From the run's start to the first one's, and to the last one's end. */
  readonly fromSeconds: number;
  readonly toSeconds: number;
  /** The sum over all: more than the span between the two when several ran at once. */
  readonly seconds: number;
}

interface Span {
  readonly activity: string;
  readonly from: number;
  readonly to: number;
}

/** Reads the run's history: when each activity was begun and when it ended. Those that still run are left out. */
export async function activityTimes(handle: WorkflowHandle, runStartedAt: number): Promise<readonly ActivityTime[]> {
  const { events } = await handle.fetchHistory();
  const scheduled = new Map<string, string>();
  const started = new Map<string, number>();
  const spans: Span[] = [];
  for (const event of events ?? []) {
    const at = millis(event.eventTime);
    const id = String(event.eventId);
    if (event.activityTaskScheduledEventAttributes) {
      scheduled.set(id, event.activityTaskScheduledEventAttributes.activityType?.name ?? '?');
    }
    if (event.activityTaskStartedEventAttributes) {
      started.set(String(event.activityTaskStartedEventAttributes.scheduledEventId), at);
    }
    const ended = event.activityTaskCompletedEventAttributes ?? event.activityTaskFailedEventAttributes;
    if (ended) {
      const origin = String(ended.scheduledEventId);
      spans.push({ activity: scheduled.get(origin) ?? '?', from: started.get(origin) ?? at, to: at });
    }
  }
  return summed(spans, runStartedAt);
}

/** One line a type, in the order in which they began. */
export function summed(spans: readonly Span[], origin: number): readonly ActivityTime[] {
  const types = [...new Set([...spans].sort((a, b) => a.from - b.from).map(({ activity }) => activity))];
  return types.map((activity) => {
    const own = spans.filter((span) => span.activity === activity);
    return {
      activity,
      count: own.length,
      fromSeconds: (Math.min(...own.map(({ from }) => from)) - origin) / 1_000,
      toSeconds: (Math.max(...own.map(({ to }) => to)) - origin) / 1_000,
      seconds: own.reduce((sum, { from, to }) => sum + to - from, 0) / 1_000,
    };
  });
}

interface Timestamp {
  readonly seconds?: { toString(): string } | null;
  readonly nanos?: number | null;
}

function millis(time: Timestamp | null | undefined): number {
  return Number(time?.seconds?.toString() ?? 0) * 1_000 + (time?.nanos ?? 0) / 1e6;
}
