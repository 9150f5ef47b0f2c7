import { VerdigrisError } from '../errors.js';
import type { Plan } from '../plan/schema.js';
import type { PreflightFinding } from '../postgres/preflight/finding.js';
import { withSession, type Databases } from '../postgres/session.js';
import type { Environment } from '../worker/connections.js';
import { pgBouncersOf } from './from-plan.js';
import { Instance } from './instance.js';
import { loginTroubles } from './logins.js';
import { obstaclesOf, type Question } from './obstacles.js';
import type { PgBouncers } from './pgbouncer.js';
import { identityOf } from '../postgres/identity.js';
import { compareLookups } from './user-lookup.js';

/** The checks of a PgBouncer, by name; docs/preflight.md has a row for each. */
export const PGBOUNCER_CHECKS = [
  'pgbouncer-console',
  'pgbouncer-version',
  'pgbouncer-admin',
  'pgbouncer-pool-mode',
  'pgbouncer-wait',
  'pgbouncer-reuseport',
  'pgbouncer-entries',
  'pgbouncer-file',
  'pgbouncer-limits',
  'pgbouncer-reach',
  'pgbouncer-logins',
  'pgbouncer-auth-query',
] as const;

/**
 * Whether the plan's PgBouncers can take part in its promotion: each is asked everything at once. Looks only; a plan
 * without PgBouncers has no findings.
 */
export async function checkPgBouncers(
  plan: Plan,
  databases: Databases,
  environment: Environment,
): Promise<PreflightFinding[]> {
  let setup: PgBouncers | undefined;
  try {
    setup = pgBouncersOf(plan, environment);
  } catch (error) {
    if (!(error instanceof VerdigrisError)) throw error;
    const found = { severity: 'error', check: 'pgbouncer-console', side: 'both' } as const;
    return [{ ...found, object: 'traffic.pgbouncer', message: error.what, remedy: error.nextStep }];
  }
  if (setup === undefined) return [];
  const { instances } = setup;
  const look = { purpose: 'preflight', statementTimeoutMs: 10_000 };
  const sides = (['blue', 'green'] as const).map((side) => ({
    side,
    identity: withSession(databases[side], look, identityOf),
  }));
  // A side that can't be reached is in the findings of each PgBouncer.
  for (const { identity } of sides) identity.catch(() => undefined);
  const question: Question = {
    ...{ setup, sides, leadsTo: 'blue' },
    loginTroubles: (users) =>
      withSession(databases.blue, look, (blue) =>
        withSession(databases.green, look, (green) => loginTroubles({ blue, green }, 'green', users)),
      ),
    compareLookups: (lookup, users) => compareLookups(databases, 'green', lookup, users),
    copiesSchema: plan.bootstrap.method !== 'standby',
  };
  const found = await Promise.all(
    instances.map(async (pooler) => {
      const instance = new Instance(pooler, question.setup);
      try {
        const obstacles = await obstaclesOf(instance, question);
        return obstacles.map((obstacle) => ({ ...obstacle, side: 'both' as const, object: pooler.connection }));
      } finally {
        await instance.close();
      }
    }),
  );
  return found.flat();
}
