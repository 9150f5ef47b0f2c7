import { formatDuration, parseDuration } from '../duration.js';
import type { Report, Rule } from '../rule.js';
import type { Plan } from '../schema.js';
import { countLaterSteps } from '../steps.js';

/*
 * Rules on times: a way back that is there for long enough, and a history that does not become full. Temporal terminates a
 * run at 51,200 events or 50 MB, and nobody watches the databases from then on.
 */

/** Below it nobody could look at green and ask for the rollback, ms. */
const LEAST_MS = 60_000;

/** A window that is shorter has seen no ordinary day, ms. */
const SHORT_STANDBY_MS = 3_600_000;

/** What the standby window may fill of the history: less than half of what Temporal allows, since DDL, lag and people come on top. */
const MOST_EVENTS = 24_000;
/** Of a comparison: a timer, an activity, and the tasks of the workflow between them. */
const COMPARISON_EVENTS = 11;
/** Of the watch of the feed, each hour. */
const HOUR_EVENTS = 8;

/** Well below what Temporal allows: retries of people, pauses and gates come on top of what is counted here. */
const MOST_HISTORY_BYTES = 30 * 2 ** 20;

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

export const tooManyComparisons: Rule = {
  name: 'too-many-comparisons',
  severity: 'error',
  why: 'each comparison is some events of the history: Temporal terminates the run when it has 51,200, and nobody would watch the way back any more',
  *check({ plan }) {
    const rounds = comparisons(plan);
    const room = MOST_EVENTS - HOUR_EVENTS * standbyHours(plan);
    const most = Math.floor(room / COMPARISON_EVENTS);
    if (rounds <= most) return;
    yield {
      place: 'standby.verifyEvery',
      message: `${plan.standby.for} with a comparison every ${plan.standby.verifyEvery} are ${rounds} comparisons; ${most < 1 ? 'so long a window has no room for one' : `there is room for ${most}`}`,
      instead: most < 1 ? 'write a shorter "for"' : `write at least "${leastInterval(plan, most)}", or a shorter "for"`,
    };
  },
};

export const planTooLarge: Rule = {
  name: 'plan-too-large',
  severity: 'error',
  why: 'every activity of a run is given the plan, and the history keeps it each time: Temporal terminates the run at 50 MB, wherever it is then',
  *check({ plan }) {
    const planBytes = new TextEncoder().encode(JSON.stringify(plan)).length;
    const rounds = comparisons(plan);
    const others = activitiesBeside(plan);
    const bytes = (planBytes + ACTIVITY_BYTES) * (others + rounds);
    if (bytes <= MOST_HISTORY_BYTES) return;
    const fit = Math.floor(MOST_HISTORY_BYTES / (planBytes + ACTIVITY_BYTES)) - others;
    yield {
      place: 'plan',
      message: `a plan of ${kilobytes(planBytes)} in about ${others + rounds} activities (${rounds} of them comparisons of the standby window) is a history of ${megabytes(bytes)}; at most ${megabytes(MOST_HISTORY_BYTES)} are accepted`,
      instead:
        fit >= 1 && fit < rounds
          ? `write at least "standby": { "verifyEvery": "${leastInterval(plan, fit)}" }, or a shorter "for"; or make the plan smaller: long SQL in functions or views that are there already, fewer steps in one run`
          : 'make the plan smaller: long SQL in functions or views that are there already, fewer steps in one run; or a shorter "standby": { "for" }',
    };
  },
};

/**
 * How many events of the history the standby window takes while nothing happens. Each telling of a comparison that goes on
 * for longer than a second is four more, up to some 12,000 events of the run.
 */
export function standbyEvents(plan: Pick<Plan, 'standby'>): number {
  return COMPARISON_EVENTS * comparisons(plan) + HOUR_EVENTS * standbyHours(plan);
}

/** How often blue and green are compared in the standby window. */
function comparisons({ standby }: Pick<Plan, 'standby'>): number {
  return Math.floor(parseDuration(standby.for) / parseDuration(standby.verifyEvery));
}

/** About how many activities a run has otherwise, at most: parcels of a copy, steps, stages, looks at the feed. */
function activitiesBeside(plan: Plan): number {
  const { bootstrap, traffic } = plan;
  const parcels = bootstrap.method === 'copy' ? 300 : 0;
  // Each step is tried behind the copy, and once more in phase migrate.
  return 100 + parcels + 2 * countLaterSteps(plan) + 10 * traffic.stages.length + standbyHours(plan);
}

/** The watch of the feed tells the lag so often. */
function standbyHours({ standby }: Pick<Plan, 'standby'>): number {
  return Math.ceil(parseDuration(standby.for) / 3_600_000);
}

/** The shortest interval with at most so many comparisons, in whole minutes. */
function leastInterval({ standby }: Plan, most: number): string {
  return `${Math.ceil(parseDuration(standby.for) / most / 60_000)}m`;
}

function kilobytes(bytes: number): string {
  return `${Math.ceil(bytes / 1_000)} kB`;
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1_000_000)} MB`;
}
