import { VerdigrisError } from '../errors.js';
import type { Plan } from '../plan/schema.js';
import type { PreflightFinding } from '../postgres/preflight/finding.js';
import type { Databases } from '../postgres/session.js';
import type { Environment } from '../worker/connections.js';
import { haproxiesOf } from './from-plan.js';
import type { Haproxies } from './haproxy.js';
import { obstaclesOf } from './obstacles.js';
import { whoIsThere } from './reach.js';

/** The checks of a HAProxy, by name; docs/preflight.md has a row for each. */
export const HAPROXY_CHECKS = [
  'haproxy-api',
  'haproxy-version',
  'haproxy-level',
  'haproxy-backend',
  'haproxy-balance',
  'haproxy-sticky',
  'haproxy-servers',
  'haproxy-weights',
  'haproxy-restart',
  'haproxy-health',
  'haproxy-fallback',
  'haproxy-reach',
] as const;

/**
 * Whether the plan's HAProxies can share reads between blue and green: each is asked everything at once. Looks only; a
 * plan without HAProxies has no findings.
 */
export async function checkHaproxies(
  plan: Plan,
  databases: Databases,
  environment: Environment,
): Promise<PreflightFinding[]> {
  let setup: Haproxies | undefined;
  try {
    setup = haproxiesOf(plan, environment);
  } catch (error) {
    if (!(error instanceof VerdigrisError)) throw error;
    const found = { severity: 'error', check: 'haproxy-api', side: 'both' } as const;
    return [{ ...found, object: 'traffic.haproxy', message: error.what, remedy: error.nextStep }];
  }
  if (setup === undefined) return [];
  const question = {
    ...{ setup, databases, known: await whoIsThere(databases) },
    reaches100: plan.traffic.stages.some(({ percent }) => percent === 100),
  };
  const found = await Promise.all(
    setup.instances.map(async (haproxy) => {
      const obstacles = await obstaclesOf(haproxy, question);
      return obstacles.map((obstacle) => ({ ...obstacle, object: haproxy.connection }));
    }),
  );
  return found.flat();
}
