import { Worker, type NativeConnection, type WorkflowBundleOption } from '@temporalio/worker';
import { createActivities } from '../../activities/index.js';
import { taskQueueOf } from '../task-queue.js';
import { activitySlots, ActivitySlots } from './activity-slots.js';
import { bundleWorkflowsApart } from './bundle-workflows.js';
import type { Environment } from './connections.js';
import { heartbeatInterval } from './heartbeat-interval.js';
import type { Redact } from './redact.js';

export interface WorkerSettings {
  readonly connection: NativeConnection;
  readonly namespace: string;
  /** Where connections are looked up by name. */
  readonly environment: Environment;
  readonly redact: Redact;
  /** Default: VERDIGRIS_TASK_QUEUE, else `verdigris`. */
  readonly taskQueue?: string;
  /** The workflows, bundled before. Default: they are bundled now, which takes a few seconds. */
  readonly workflowBundle?: WorkflowBundleOption;
}

/** A worker for the workflows and activities of Verdigris. */
export async function createWorker(settings: WorkerSettings): Promise<Worker> {
  const { environment, redact } = settings;
  const slots = activitySlots(environment);
  const heartbeatMs = heartbeatInterval(environment);
  return Worker.create({
    connection: settings.connection,
    namespace: settings.namespace,
    taskQueue: settings.taskQueue ?? taskQueueOf(environment),
    workflowBundle: settings.workflowBundle ?? (await bundleWorkflowsApart()),
    activities: createActivities({ environment, redact, heartbeatMs }),
    // Heartbeats carry cancels: thinned out less than by default, a rollback begins within a second. How often an activity
    // sends one is its own to say (VERDIGRIS_HEARTBEAT): by this, those of a promotion would be thinned out with the others.
    maxHeartbeatThrottleInterval: '500ms',
    defaultHeartbeatThrottleInterval: '500ms',
    // How long a message to a run waits for the worker that had the run last, when that one is dead: then any other takes it.
    stickyQueueScheduleToStartTimeout: '2s',
    // Asked to stop, activities are cancelled after this and go on with another worker where they were.
    shutdownGraceTime: '2s',
    shutdownForceTime: '20s',
    maxConcurrentActivityTaskExecutions: slots,
    // Each poll of a worker that is frozen takes one more attempt with it, which costs its heartbeat timeout: with ten, as by
    // default, both sides could stay closed for 40 s after a decision. Two are enough for the few tasks of a migration.
    activityTaskPollerBehavior: { type: 'simple-maximum', maximum: Math.min(2, slots) },
    workflowTaskPollerBehavior: { type: 'simple-maximum', maximum: 2 },
    interceptors: { activity: [new ActivitySlots(slots).interceptor] },
    // A run is one workflow of a few hundred events: others are replayed when they wake up. Keeps the worker small.
    maxCachedWorkflows: 20,
    workflowThreadPoolSize: 1,
  });
}
