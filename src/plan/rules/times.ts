import { formatDuration, parseDuration } from '../duration.js';
import type { Report, Rule } from '../rule.js';
import type { Plan } from '../schema.js';
import { GOOD_NEWS_EVERY_MS } from '../standby-news.js';
import { countLaterSteps } from '../steps.js';

/*
 * Rules on times: a way back that is there for long enough, and a history that does not become full. Temporal terminates a
 * run at 51,200 events or 50 MB, and nobody watches the databases from then on.
 */

/** Below it nobody could look at green and ask for the rollback, ms. */
const LEAST_MS = 60_000;

/** A window that is shorter has seen no ordinary day, ms. */
const SHORT_STANDBY_MS = 3_600_000;

/** Of a comparison, or of a watch of the feed, that comes back: an activity, a task of the workflow, a search attribute. */
const TELLING_EVENTS = 7;

/** Well below what Temporal allows: retries of people, pauses and gates come on top of what is counted here. */
const MOST_HISTORY_BYTES = 30 * 2 ** 20;

/** Of what one task of the workflow begins, bytes: gRPC takes 4 MB, and results come with it. */
const MOST_TASK_BYTES = 3_500_000;

/** What an activity is in the history beside the plan that it is given: results, names, times. */
const ACTIVITY_BYTES = 3_000;

export const timeTooShort: Rule = {
  name: 'time-too-short',
  severity: 'warning',
  why: 'nobody can act within such a time: the way back would be gone before it could be asked for, or a question be asked again as soon as it is answered',
  *check({ plan }) {
    const { standby, traffic } = plan;
    yield* tooShort('standby.for', standby.for, '"48h"');
    yield* tooShort('standby.verifyEvery', standby.verifyEvery, '"1h"');
    yield* tooShort('traffic.approval.validFor', traffic.approval.validFor, '"24h"');
  },
};

function* tooShort(place: string, text: string, usual: string): Iterable<Report> {
  if (parseDuration(text) >= LEAST_MS) return;
  yield {
    place,
    message: `${text} is less than a minute`,
    instead: `write at least "1m"; ${usual} is usual. Leave it for a rehearsal`,
  };
}

export const shortStandby: Rule = {
  name: 'short-standby',
  severity: 'warning',
  why: 'when the window ends, replication is taken down and the way back with it: what shows only under an ordinary load, or in a nightly job, shows too late',
  *check({ plan }) {
    const ms = parseDuration(plan.standby.for);
    if (ms >= SHORT_STANDBY_MS) return;
    yield {
      place: 'standby.for',
      message: `a rollback is possible for ${formatDuration(ms)} after the promotion`,
      instead: 'write "48h": `retire` ends the window sooner when all is well',
    };
  },
};

export const planTooLarge: Rule = {
  name: 'plan-too-large',
  severity: 'error',
  why: 'every activity of a run is given the plan, and the history keeps it each time: Temporal terminates the run at 50 MB, wherever it is then',
  *check({ plan }) {
    const planBytes = new TextEncoder().encode(JSON.stringify(plan)).length;
    const activities = activitiesBeside(plan) + standbyTellings(plan);
    yield* tooLargeAtOnce(plan, planBytes);
    const bytes = (planBytes + ACTIVITY_BYTES) * activities;
    if (bytes <= MOST_HISTORY_BYTES) return;
    yield {
      place: 'plan',
      message: `a plan of ${kilobytes(planBytes)} in about ${activities} activities is a history of ${megabytes(bytes)}; at most ${megabytes(MOST_HISTORY_BYTES)} are accepted`,
      instead:
        'make the plan smaller: long SQL in functions or views that are there already, fewer steps in one run; or a shorter "standby": { "for" }',
    };
  },
};

/** The lanes of a copy are begun by one task of the workflow: one that gRPC does not take is tried for ever. */
function* tooLargeAtOnce({ bootstrap }: Plan, planBytes: number): Generator<Report> {
  const bytes = planBytes * bootstrap.parallel;
  if (bootstrap.method !== 'copy' || bytes <= MOST_TASK_BYTES) return;
  yield {
    place: 'bootstrap.parallel',
    message: `a plan of ${kilobytes(planBytes)} for ${bootstrap.parallel} lanes, which begin at once, is ${kilobytes(bytes)} in one message to Temporal, which takes 4 MB`,
    instead: `write at most ${Math.floor(MOST_TASK_BYTES / planBytes)}, or make the plan smaller`,
  };
}

/**
 * How many events of the history the standby window takes while all is well, however often it compares: the longest window
 * that a plan may have takes less than a quarter of what Temporal allows.
 */
export function standbyEvents(plan: Pick<Plan, 'standby'>): number {
  return TELLING_EVENTS * standbyTellings(plan);
}

/** How often the activities of a standby window in which all is well come back: the watch of the feed, and the comparisons. */
function standbyTellings({ standby }: Pick<Plan, 'standby'>): number {
  const [window, every] = [parseDuration(standby.for), parseDuration(standby.verifyEvery)];
  // The first comparison is told in any case.
  return Math.ceil(window / GOOD_NEWS_EVERY_MS) + 1 + Math.ceil(window / Math.max(every, GOOD_NEWS_EVERY_MS));
}

/** About how many activities a run has otherwise, at most: parcels of a copy, steps, stages. */
function activitiesBeside(plan: Plan): number {
  const { bootstrap, traffic } = plan;
  const parcels = bootstrap.method === 'copy' ? 300 : 0;
  // Each step is tried behind the copy, and once more in phase migrate.
  return 100 + parcels + 2 * countLaterSteps(plan) + 10 * traffic.stages.length;
}

function kilobytes(bytes: number): string {
  return `${Math.ceil(bytes / 1_000)} kB`;
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1_000_000)} MB`;
}
