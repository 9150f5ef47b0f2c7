import { arrayFromPayloads, defaultPayloadConverter } from '@temporalio/common';
import type { ActivateInput, WorkflowInterceptors } from '@temporalio/workflow';

/** Names that the SDK keeps for itself. */
const RESERVED = '__temporal_';

type Jobs = NonNullable<ActivateInput['activation']['jobs']>;
type Signal = NonNullable<Jobs[number]['signalWorkflow']>;

/**
 * Signals that would fail the task of the workflow, and each one after it: the run would hear no rollback any more. The
 * SDK throws at a reserved name where all others have a handler, and at contents that it can't read (of a client that
 * encrypts, or that is no JSON). The first is left out, the second comes without contents, and is ignored as such.
 */
export const interceptors = (): WorkflowInterceptors => ({
  internals: [
    {
      activate(input, next) {
        const { activation } = input;
        activation.jobs = (activation.jobs ?? []).filter(({ signalWorkflow }) => !isReserved(signalWorkflow));
        for (const { signalWorkflow } of activation.jobs) {
          if (signalWorkflow && !isReadable(signalWorkflow)) signalWorkflow.input = [];
        }
        next(input);
      },
    },
  ],
});

function isReserved(signal: Signal | null | undefined): boolean {
  return signal?.signalName?.startsWith(RESERVED) === true;
}

function isReadable({ input }: Signal): boolean {
  try {
    arrayFromPayloads(defaultPayloadConverter, input);
    return true;
  } catch {
    return false;
  }
}
