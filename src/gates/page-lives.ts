import { formatDuration } from '../plan/duration.js';
import type { RouterMetrics } from '../router/metrics-snapshot.js';
import type { RouterSnapshot, RouterSnapshots } from './router-snapshot.js';
import { hasFallen } from './window.js';

/*
 * A metrics page has the name of its address, and the process behind it may be restarted under that name: its counters
 * begin at 0 then. In a stage each such life is an instance of its own, as it is with heartbeats: what was counted before
 * stays counted.
 */

/**
 * A page that has begun anew more often within `RESTARTS_WITHIN_MS` is none of one process, or of one that does not stay. In
 * a stage that lasts for a week, deployments alone come to as many: they keep nothing from passing.
 */
const MOST_RESTARTS = 20;
const RESTARTS_WITHIN_MS = 3_600_000;
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
      now.at,
    ),
  );
  const [names, pages] = [new Set(live.map(({ instance }) => instance)), new Set(live.map(pageOf))];
  const stale = known
    .filter(({ instance }) => !names.has(instance))
    .map((life) => (pages.has(pageOf(life)) ? { ...life, metrics: { ...life.metrics, ended: true as const } } : life));
  const restless = live.filter(({ restartedAt = [] }) => restartedAt.length > MOST_RESTARTS);
  return { ...now, live, stale, unreachable: [...(now.unreachable ?? []), ...restless.map(tooOften)] };
}

function lifeOf(page: RouterSnapshot, last: RouterSnapshot | undefined, at: string): RouterSnapshot {
  if (last === undefined) return page;
  const { restarts = 0, restartedAt = [], instance } = last;
  const lately = restartedAt.filter((moment) => Date.parse(at) - Date.parse(moment) < RESTARTS_WITHIN_MS);
  const known = { ...page, page: page.instance };
  if (!beganAnew(page, last)) return restarts === 0 ? page : { ...known, instance, restarts, restartedAt: lately };
  const next = restarts + 1;
  // One more than may be is enough to know, and is all that is kept.
  const moments = [...lately, at].slice(-(MOST_RESTARTS + 1));
  return { ...known, instance: `${page.instance} (restarted ${next}x)`, restarts: next, restartedAt: moments };
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
  return `the counters of ${pageOf(life)} have fallen more than ${MOST_RESTARTS} times within ${formatDuration(RESTARTS_WITHIN_MS)}: its process does not stay, or several are behind one address`;
}
