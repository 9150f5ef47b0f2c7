import { VerdigrisError } from '../errors.js';
import { reasonOf } from '../failure-text.js';
import type { Plan } from '../plan/schema.js';
import type { PreflightFinding } from '../postgres/preflight/finding.js';
import { withSession, type Databases } from '../postgres/session.js';
import type { Side } from '../side.js';
import type { Environment } from '../worker/connections.js';
import { pgBouncersOf } from './from-plan.js';
import { Instance } from './instance.js';
import { loginTroubles } from './logins.js';
import { obstaclesOf, type Question } from './obstacles.js';
import type { PgBouncers } from './pgbouncer.js';
import { preparedObstacles } from './prepared.js';
import { readLimits, together, tooLittleRoom, wantedThrough, type Limits, type Wanted } from './room.js';
import { identityOf } from '../postgres/identity.js';
import { compareLookups } from './user-lookup.js';

/** The checks of a PgBouncer, by name; docs/preflight.md has a row for each. */
export const PGBOUNCER_CHECKS = [
  'pgbouncer-console',
  'pgbouncer-version',
  'pgbouncer-admin',
  'pgbouncer-pool-mode',
  'pgbouncer-wait',
  'pgbouncer-prepared',
  'pgbouncer-reuseport',
  'pgbouncer-entries',
  'pgbouncer-file',
  'pgbouncer-limits',
  'pgbouncer-reach',
  'pgbouncer-logins',
  'pgbouncer-auth-query',
  'pgbouncer-room',
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
  const sides = (['blue', 'green'] as const).map((side) => ({
    side,
    identity: withSession(databases[side], LOOK, identityOf),
  }));
  // A side that can't be reached is in the findings of each PgBouncer.
  for (const { identity } of sides) identity.catch(() => undefined);
  const question: Question = {
    ...{ setup, sides, leadsTo: 'blue' },
    loginTroubles: (users, seenAs) =>
      withSession(databases.blue, LOOK, (blue) =>
        withSession(databases.green, LOOK, (green) => loginTroubles({ blue, green }, 'green', users, seenAs)),
      ),
    compareLookups: (lookup, users) => compareLookups(databases, 'green', lookup, users),
    ...{ copiesSchema: plan.bootstrap.method !== 'standby', isForPause: false },
  };
  const found = await Promise.all(
    instances.map(async (pooler) => {
      const instance = new Instance(pooler, question.setup);
      try {
        const obstacles = await obstaclesOf(instance, question);
        // One that says nothing is among the obstacles.
        const prepared = instance.control().then((control) => preparedObstacles(instance, control, plan));
        const all = [...obstacles, ...(await prepared.catch(() => []))];
        const findings = all.map((one) => ({ ...one, side: 'both' as const, object: pooler.connection }));
        const wanted = instance.control().then((control) => wantedThrough(control, setup));
        return { findings, wanted: await wanted.catch(() => undefined) };
      } finally {
        await instance.close();
      }
    }),
  );
  const wants = found.flatMap(({ wanted }) => wanted ?? []);
  return [...found.flatMap(({ findings }) => findings), ...(await roomFor(together(wants), databases))];
}

/** Whether green has room for what comes from all of them; nothing is known of users who have not come yet. */
async function roomFor(wanted: Wanted, databases: Databases): Promise<PreflightFinding[]> {
  const users = [...wanted.byUser.keys()];
  if (users.length === 0) return [];
  const limits = (side: Side): Promise<Limits> =>
    withSession(databases[side], LOOK, (session) => readLimits(session, users));
  try {
    const [blue, green] = await Promise.all([limits('blue'), limits('green')]);
    return tooLittleRoom({ blue, green }, wanted);
  } catch (error) {
    const [message, next] = [reasonOf(error), error instanceof VerdigrisError ? error.nextStep : 'look again'];
    return [
      {
        ...{ severity: 'warning', check: 'pgbouncer-room', side: 'green', object: 'traffic.pgbouncer' },
        message: `whether green has room for the connections of the PgBouncers can't be looked at: ${message}`,
        remedy: `${next.charAt(0).toUpperCase()}${next.slice(1)}`,
      },
    ];
  }
}

const LOOK = { purpose: 'preflight', statementTimeoutMs: 10_000 };
