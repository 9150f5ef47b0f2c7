import { MockActivityEnvironment } from '@temporalio/testing';
import { trafficActivities } from '../../activities/traffic.js';
import { planSchema } from '../../src/plan/schema.js';

/* A worker in a process of its own that opens one stage: one that can be killed or frozen in the middle. */

process.once(
  'message',
  ({ plan, percent, environment }: { plan: unknown; percent: number; environment: NodeJS.ProcessEnv }) => {
    const activities = trafficActivities({ environment, redact: (text) => text });
    const ref = { plan: planSchema.parse(plan), runId: 'r' };
    new MockActivityEnvironment()
      .run(() => activities.openStage(ref, { percent, for: '1s' }))
      .then(
        () => process.send?.('done'),
        (error: unknown) => process.send?.(error instanceof Error ? error.message : String(error)),
      );
  },
);
process.once('disconnect', () => process.exit());
process.send?.('ready');
