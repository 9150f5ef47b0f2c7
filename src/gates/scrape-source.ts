import { parseExposition } from './exposition.js';
import { ask, type HttpEndpoint } from './http-source.js';
import { isRouterMetrics, type RouterSnapshot, type RouterSnapshots } from './router-snapshot.js';
import { readRouterPage } from './router-page.js';

const TIMEOUT_MS = 2_000;
/** A page with thousands of endpoints: more is no router's page. */
const MAX_BYTES = 8_000_000;

type Scraped =
  | { readonly kind: 'live'; readonly snapshot: RouterSnapshot }
  | { readonly kind: 'unreadable' | 'unreachable'; readonly instance: string; readonly why: string };

/**
 * Asks the metrics pages of routers, all at once. One that does not answer is named, and counts with what it said last:
 * its requests up to then are known.
 *
 * @param before the last answers
 * @param now the clock that what was seen is kept by, ms since 1970. Default: this machine's
 */
export async function scrapeRouters(
  targets: readonly HttpEndpoint[],
  before: RouterSnapshots | undefined,
  signal?: AbortSignal,
  now: () => number = Date.now,
): Promise<RouterSnapshots> {
  const scraped = await Promise.all(targets.map((target) => scrape(target, signal)));
  const missing = new Set(scraped.flatMap((one) => (one.kind === 'live' ? [] : [one.instance])));
  return {
    at: new Date(now()).toISOString(),
    live: scraped.flatMap((one) => (one.kind === 'live' ? [one.snapshot] : [])),
    stale: [...(before?.live ?? []), ...(before?.stale ?? [])].filter(({ instance }) => missing.has(instance)),
    unreadable: scraped.flatMap((one) => (one.kind === 'unreadable' ? [`${one.instance}: ${one.why}`] : [])),
    unreachable: scraped.flatMap((one) => (one.kind === 'unreachable' ? [one.why] : [])),
  };
}

async function scrape(target: HttpEndpoint, signal: AbortSignal | undefined): Promise<Scraped> {
  const instance = target.name;
  try {
    const { status, body } = await ask(target, {
      timeoutMs: TIMEOUT_MS,
      maxBytes: MAX_BYTES,
      ...(signal === undefined ? {} : { signal }),
    });
    if (status !== 200) return { kind: 'unreachable', instance, why: `${instance} answered HTTP ${status}` };
    const page = readRouterPage(parseExposition(body));
    if (page === undefined || !isRouterMetrics(page.metrics)) {
      return { kind: 'unreadable', instance, why: 'not the metrics of a router of this version' };
    }
    return { kind: 'live', snapshot: { instance, ageSeconds: 0, ...page } };
  } catch (error) {
    signal?.throwIfAborted();
    const why = error instanceof Error ? error.message : String(error);
    return error instanceof SyntaxError
      ? { kind: 'unreadable', instance, why }
      : { kind: 'unreachable', instance, why };
  }
}
