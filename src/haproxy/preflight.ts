import type { Plan } from '../plan/schema.js';
import type { PreflightFinding } from '../postgres/preflight/finding.js';
import { connectionVariable, type Databases } from '../postgres/session.js';
import type { Environment } from '../worker/connections.js';
import { haproxiesOf } from './from-plan.js';
import type { Haproxies, Haproxy } from './haproxy.js';
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
  'haproxy-agent',
  'haproxy-health',
  'haproxy-fallback',
  'haproxy-reach',
] as const;

const NOT_ASKED = { severity: 'error', check: 'haproxy-api', side: 'both' } as const;

/**
 * Whether the plan's HAProxies can share reads between blue and green: each is asked everything at once. Looks only; a
 * plan without HAProxies has no findings.
 */
export async function checkHaproxies(
  plan: Plan,
  databases: Databases,
  environment: Environment,
): Promise<PreflightFinding[]> {
  const unknown: PreflightFinding[] = [];
  const setup = haproxiesOf(plan, environment, ({ what, nextStep }) =>
    unknown.push({ ...NOT_ASKED, object: 'traffic.haproxy', message: what, remedy: nextStep }),
  );
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
  return [...unknown, ...sameAddress(setup), ...found.flat()];
}

/** Another one is left out then, which would go on sharing as before: a run would never know of it. */
function sameAddress({ instances }: Haproxies): PreflightFinding[] {
  const text = ({ address }: Haproxy): string => JSON.stringify(address);
  return instances.flatMap((haproxy, i) => {
    const other = instances.slice(0, i).find((earlier) => text(earlier) === text(haproxy));
    if (other === undefined) return [];
    const message = `its runtime API is that of "${other.connection}", too: they are one process`;
    const remedy = `let VERDIGRIS_CONNECTION_${connectionVariable(haproxy.connection)} lead to another HAProxy, or take one of the names out of the plan`;
    return [{ ...NOT_ASKED, object: haproxy.connection, message, remedy }];
  });
}
