import { setTimeout as sleep } from 'node:timers/promises';
import { log } from '@temporalio/activity';
import { VerdigrisError } from '../src/errors.js';
import { deploymentFaults, readInstances, unconfirmedInstances, type Confirmed } from '../src/gates/instances.js';
import type { Plan, Stage } from '../src/plan/schema.js';
import type { Session } from '../src/postgres/session.js';

/** An instance that lives takes a route over in milliseconds; the way back waits no longer for one that does not. */
const FOLLOW_WITHIN_MS = 2_000;

/** Refuses a stage, before anything moves, while the code that works with both schemas is not deployed. */
export async function refuseUndeployed(blue: Session, plan: Plan, stage: Stage): Promise<void> {
  const { instances } = plan.traffic;
  if (instances === undefined || stage.percent === 0) return;
  const faults = deploymentFaults(await readInstances(blue, plan.name), instances);
  if (faults.length === 0) return;
  throw new VerdigrisError({
    type: 'GateFailed',
    message: `stage ${stage.percent} %: ${faults.join('; ')}`,
    nextStep: 'deploy the application with the code that works with both schemas; the stage waits for it',
    retryable: true,
  });
}

/** After reads were taken back: names the live instances that do not say so. They don't keep a rollback from going on. */
export async function warnOfUnconfirmed(blue: Session, route: Confirmed): Promise<void> {
  const until = Date.now() + FOLLOW_WITHIN_MS;
  try {
    for (;;) {
      const behind = await unconfirmedInstances(blue, route);
      if (behind.length === 0) return;
      if (Date.now() > until) {
        const names = behind.slice(0, 10).join(', ');
        log.warn(`reads are back on blue, and these instances have not confirmed it: ${names}`, { ...route });
        return;
      }
      await sleep(100);
    }
  } catch {
    log.warn('reads are back on blue; which instances have confirmed it could not be read', { ...route });
  }
}
