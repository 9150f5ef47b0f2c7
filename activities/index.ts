import { copyRowsActivities } from './copy-rows.js';
import { copySchemaActivities } from './copy-schema.js';
import type { ActivityDependencies } from './context.js';
import { flagsActivities } from './flags.js';
import { instanceActivities } from './instances.js';
import { migrateActivities } from './migrate.js';
import { notifyActivities } from './notify.js';
import { preflightActivities } from './preflight.js';
import { promoteActivities } from './promote.js';
import { replicateActivities } from './replicate.js';
import { retireActivities } from './retire.js';
import { rollbackActivities } from './rollback.js';
import { standbyBootstrapActivities } from './standby-bootstrap.js';
import { standbyActivities } from './standby.js';
import { trafficActivities } from './traffic.js';
import { trafficWebhookActivities } from './traffic-webhooks.js';
import { verifyActivities } from './verify.js';
import { watchSchemaActivities } from './watch-schema.js';
import { windowsActivities } from './windows.js';

/** Every activity, by its name in the timeline. */
export function createActivities(dependencies: ActivityDependencies) {
  return {
    ...preflightActivities(dependencies),
    ...copySchemaActivities(dependencies),
    ...replicateActivities(dependencies),
    ...copyRowsActivities(dependencies),
    ...standbyBootstrapActivities(dependencies),
    ...migrateActivities(dependencies),
    ...verifyActivities(dependencies),
    ...trafficActivities(dependencies),
    ...trafficWebhookActivities(dependencies),
    ...flagsActivities(dependencies),
    ...instanceActivities(dependencies),
    ...promoteActivities(dependencies),
    ...standbyActivities(dependencies),
    ...retireActivities(dependencies),
    ...rollbackActivities(dependencies),
    ...watchSchemaActivities(dependencies),
    ...windowsActivities(dependencies),
    ...notifyActivities(dependencies),
  };
}

export type Activities = ReturnType<typeof createActivities>;
