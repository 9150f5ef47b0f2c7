import { ApplicationFailure, patched, setDefaultSignalHandler, setHandler } from '@temporalio/workflow';
import type { SignalDefinition, UpdateDefinition } from '@temporalio/common';
import * as messages from '../messages.js';
import type { Message } from '../messages.js';
import { tooLong } from './message-texts.js';
import type { MigrationRun } from './migration-run.js';
import type { MessageName } from './status.js';

/** Told after a message was followed. */
export type OnMessage = (message: MessageName) => void;

const DESCRIPTIONS: Readonly<Record<MessageName, string>> = {
  approve:
    'Lets the run go on. {"gate": "promote", "by": "who", "reason": "why"}; the gate is in status.waiting. With "request" ' +
    'from there, the approval counts for this very question only; needed when the gate is asked for again',
  pause: 'Stops the work where it can go on later. {"by", "reason"}',
  resume: 'Goes on after a pause or a hold. {"by", "reason"}',
  rollback:
    'Brings all traffic back to blue and undoes the run. {"by", "reason"}; "acceptLoss": true where status.rollback.loses says so',
  retire:
    'Ends the standby window now; where the plan asks for an approval before the retirement, that is asked for next. ' +
    'In a rollback that waits: gives it up; the run ends, and writes stay on green. {"by", "reason"}',
};

const NO_SUCH_MESSAGE = `there is no message of that name: send ${Object.keys(DESCRIPTIONS).join(', ')}`;

/** Installs every message and query; called before the first await, so no message is lost. */
export function registerMessages(run: MigrationRun, onMessage: OnMessage): void {
  command('approve', messages.approveUpdate, messages.approveSignal);
  command('pause', messages.pauseUpdate, messages.pauseSignal);
  command('resume', messages.resumeUpdate, messages.resumeSignal);
  command('rollback', messages.rollbackUpdate, messages.rollbackSignal);
  command('retire', messages.retireUpdate, messages.retireSignal);
  setHandler(messages.progressSignal, (progress) => run.progress(progress), {
    description: "How far the run's activities are; sent by them",
  });
  setHandler(messages.statusQuery, () => run.status, {
    description: 'Where the run is, what it waits for, what it found',
  });
  setHandler(messages.planQuery, () => run.plan, { description: 'The plan with its defaults' });
  setHandler(messages.evidenceQuery, () => run.evidence, {
    description: 'Why stages and phases went on, held or failed',
  });
  // Last: it is given what has come for nobody so far.
  setDefaultSignalHandler((name: string, payload?: unknown) => {
    // An earlier version has told nobody, so nothing has followed from it.
    if (patched('signals of unknown names are told')) run.ignore(name, payload, NO_SUCH_MESSAGE);
  });

  function command<M extends Message>(
    name: MessageName,
    update: UpdateDefinition<string, [M]>,
    signal: SignalDefinition<[M]>,
  ): void {
    setHandler(
      update,
      (payload: M) => {
        const line = run.follow(name, payload);
        onMessage(name);
        return line;
      },
      {
        description: DESCRIPTIONS[name],
        // Synchronous: an async validator does not refuse, it breaks the workflow task.
        validator: (payload: M) => {
          const why = tooLong(payload) ?? run.refusal(name, payload);
          if (why !== undefined) throw ApplicationFailure.nonRetryable(`${name} refused: ${why}`, 'MessageRefused');
        },
      },
    );
    setHandler(
      signal,
      (payload: M) => {
        const why = tooLongSignal(payload) ?? run.refusal(name, payload);
        if (why !== undefined) return run.ignore(name, payload, why);
        run.follow(name, payload);
        onMessage(name);
      },
      { description: DESCRIPTIONS[name] },
    );
  }
}

/** Signals are heard again in a replay, and an earlier version has followed those of any length. Updates are not checked again. */
function tooLongSignal(payload: unknown): string | undefined {
  const why = tooLong(payload);
  return why !== undefined && patched('texts of signals have a limit') ? why : undefined;
}
