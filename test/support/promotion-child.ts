import { STEPS, type Move, type Step } from './promotion-steps.js';

/* A worker in a process of its own that does one step of a move when it is told to: one that can be killed or frozen. */

process.on('message', ({ step, move }: { step: Step; move: Move }) => {
  STEPS[step](move).then(
    () => process.send?.({ outcome: 'done' }),
    (error: unknown) => process.send?.({ outcome: error instanceof Error ? error.message : String(error) }),
  );
});
process.on('disconnect', () => process.exit());
process.send?.({ outcome: 'ready' });
