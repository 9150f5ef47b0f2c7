import type { RouterMetrics } from '../router/metrics-snapshot.js';
import type { RouterSnapshot, RouterSnapshots } from './router-snapshot.js';
import { hasFallen } from './window.js';

/*
 * A metrics page has the name of its address, and the process behind it may be restarted under that name: its counters
 * begin at 0 then. In a stage each such life is an instance of its own, as it is with heartbeats: what was counted before
 * stays counted.
 */

/** A page that has begun anew more often in a stage is none of one process, or of one that does not stay. */
const MOST_RESTARTS = 20;
/** A process that was restarted has less than this part of what it had. */
const PART_THAT_FELL = 1 / 2;

/**
 * The pages of now, each as the life that it shows.
 *
 * @param before the same of the look before, or of the opening of the stage
 * @param now as the pages have answered
 */
export function livesAfter(before: RouterSnapshots, now: RouterSnapshots): RouterSnapshots {
  const known = [...before.live, ...before.stale];
  const current = known.filter(({ metrics }) => metrics.ended !== true);
  const live = now.live.map((page) =>
    lifeOf(
      page,
      current.find((life) => pageOf(life) === page.instance),
    ),
  );
  const [names, pages] = [new Set(live.map(({ instance }) => instance)), new Set(live.map(pageOf))];
  const stale = known
    .filter(({ instance }) => !names.has(instance))
    .map((life) => (pages.has(pageOf(life)) ? { ...life, metrics: { ...life.metrics, ended: true as const } } : life));
  const restless = live.filter(({ restarts = 0 }) => restarts > MOST_RESTARTS);
  return { ...now, live, stale, unreachable: [...(now.unreachable ?? []), ...restless.map(tooOften)] };
}

function lifeOf(page: RouterSnapshot, last: RouterSnapshot | undefined): RouterSnapshot {
  if (last === undefined) return page;
  const { restarts = 0, instance } = last;
  if (!beganAnew(page, last)) return restarts === 0 ? page : { ...page, instance, restarts, page: page.instance };
  const next = restarts + 1;
  return { ...page, instance: `${page.instance} (restarted ${next}x)`, restarts: next, page: page.instance };
}

/** Where several processes stand behind one page, as in a cluster, the end of one takes its part away, and no more. */
function beganAnew({ metrics }: RouterSnapshot, last: RouterSnapshot): boolean {
  return hasFallen(metrics, last.metrics) && readsOf(metrics) < readsOf(last.metrics) * PART_THAT_FELL;
}

function readsOf({ reads: { blue, green } }: RouterMetrics): number {
  return blue.requests + green.requests;
}

function pageOf({ page, instance }: RouterSnapshot): string {
  return page ?? instance;
}

function tooOften(life: RouterSnapshot): string {
  return `the counters of ${pageOf(life)} have fallen more than ${MOST_RESTARTS} times in this stage: its process does not stay, or several are behind one address`;
}
