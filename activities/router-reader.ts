import { livesAfter } from '../src/gates/page-lives.js';
import type { RouterSnapshots } from '../src/gates/router-snapshot.js';
import { readRouterSnapshots } from '../src/gates/router-source.js';
import { scrapeRouters } from '../src/gates/scrape-source.js';
import type { Plan } from '../src/plan/schema.js';
import { serverClock } from '../src/postgres/server-clock.js';
import type { Session } from '../src/postgres/session.js';
import type { Environment } from '../src/worker/connections.js';
import { httpEndpoints } from '../src/worker/http-endpoints.js';

/**
 * Reads the routers' counters: what they write to blue, or their metrics pages where the plan names these. Either is of a
 * moment by blue's clock: the clocks of two workers may be hours apart.
 *
 * @param before what is known of the stage: a page that begins anew after that is told as another instance. Default: the pages
 * are of no stage
 * @param blueNow blue's clock, ms since 1970. Default: it is read with the first of the pages
 */
export function routerReader(
  { name, traffic }: Plan,
  environment: Environment,
  before: RouterSnapshots | undefined,
  signal: AbortSignal,
  blueNow?: () => number,
): (session: (side: 'blue') => Promise<Session>) => Promise<RouterSnapshots> {
  const { scrape } = traffic;
  if (scrape === undefined) return async (session) => readRouterSnapshots(await session('blue'), name);
  const targets = scrape.flatMap((connection) => httpEndpoints('traffic.scrape', connection, environment));
  let last = before;
  let now = blueNow;
  return async (session) => {
    now ??= await serverClock(await session('blue'));
    const pages = await scrapeRouters(targets, before === undefined ? last : undefined, signal, now);
    last = before === undefined || last === undefined ? pages : livesAfter(last, pages);
    return last;
  };
}
