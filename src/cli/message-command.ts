import { WorkflowUpdateFailedError, type Client } from '@temporalio/client';
import { WorkflowNotFoundError } from '@temporalio/common';
import { innermostMessage } from '../grpc-status.js';
import type { Approval, Message } from '../../workflows/messages.js';
import { approveUpdate, pauseUpdate, resumeUpdate, retireUpdate, rollbackUpdate } from '../../workflows/messages.js';
import type { MessageName } from '../../workflows/lib/status.js';
import { shellCommand } from './shell-quote.js';
import type { ServerFlags } from './start-request.js';
import { atServer, serverFlags, workflowIdOf } from './start-request.js';
import { isNoAnswer, withClient } from './temporal-client.js';
import type { ExitCode, Terminal } from './terminal.js';
import { CommandError, EXIT } from './terminal.js';

export interface MessageFlags extends ServerFlags, Message {
  /** Seconds to wait for a worker's answer. */
  readonly timeout: number;
  /** With a rollback: what only green has may be lost. */
  readonly acceptLoss?: boolean;
  /** With an approval: the question that it answers, and no other. */
  readonly request?: string;
}

const UPDATES = { pause: pauseUpdate, resume: resumeUpdate, rollback: rollbackUpdate, retire: retireUpdate };

/** Sends a message to a run as an update: it is checked before it is accepted, and answered. */
export async function messageCommand(
  terminal: Terminal,
  message: MessageName,
  name: string,
  flags: MessageFlags,
  point?: string,
): Promise<ExitCode> {
  const workflowId = workflowIdOf(name);
  const gate = point === undefined ? undefined : gateMeant(point);
  const who = { by: flags.by, reason: flags.reason, ...(flags.acceptLoss === true ? { acceptLoss: true } : {}) };
  const request = flags.request === undefined ? {} : { request: flags.request };
  const payload = gate === undefined ? who : { gate, ...request, ...who };
  await withClient(flags, async (client) => {
    const handle = client.workflow.getHandle(workflowId);
    const send = (): Promise<string> =>
      message === 'approve'
        ? handle.executeUpdate(approveUpdate, { args: [{ gate: gate ?? '', ...request, ...who } satisfies Approval] })
        : handle.executeUpdate(UPDATES[message], { args: [who] });
    try {
      terminal.out(await client.withDeadline(Date.now() + flags.timeout * 1_000, send));
    } catch (error) {
      if (error instanceof WorkflowNotFoundError) throw await ended(client, workflowId, flags, error);
      throw messageFailed(error, message, workflowId, payload, flags);
    }
  });
  return EXIT.done;
}

/** The gate that a run calls `stage-50`, also where it is given as the plan writes it: no other one is a number. */
export function gateMeant(point: string): string {
  const percent = /^(\d+(?:\.\d+)?) ?%?$/.exec(point.trim())?.[1];
  return percent === undefined ? point : `stage-${Number(percent)}`;
}

function messageFailed(
  error: unknown,
  message: MessageName,
  workflowId: string,
  payload: object,
  flags: MessageFlags,
): CommandError {
  if (error instanceof WorkflowUpdateFailedError) {
    return new CommandError(
      innermostMessage(error),
      `see what the run waits for: ${atServer(['verdigris', 'status', workflowId], flags)}`,
      EXIT.refused,
      error,
    );
  }
  if (!isNoAnswer(error)) {
    return new CommandError(
      `${message} was not sent to ${workflowId}: ${innermostMessage(error)}`,
      `see the run: ${describe(workflowId, flags)}`,
      EXIT.unusable,
      error,
    );
  }
  const signal = shellCommand([
    ...['temporal', 'workflow', 'signal', '--workflow-id', workflowId, '--name', message],
    ...['--input', JSON.stringify(payload), ...serverFlags(flags)],
  ]);
  return new CommandError(
    `no worker has answered within ${flags.timeout} s, so nobody knows whether ${message} was accepted`,
    `start a worker (npm run worker) and send it again; or send it as a signal, which waits for the worker:\n\n${signal}\n`,
    EXIT.unusable,
    error,
  );
}

/** Temporal takes no message for a run that has ended, as for one that never was. */
async function ended(client: Client, workflowId: string, flags: ServerFlags, cause: unknown): Promise<CommandError> {
  const status = await client.workflow
    .getHandle(workflowId)
    .describe()
    .then(
      ({ status: { name } }) => name,
      () => undefined,
    );
  if (status === undefined || status === 'RUNNING') return noSuchWorkflow(workflowId, flags, cause);
  return new CommandError(
    `${workflowId} has ended (${status.toLowerCase()}): it takes no messages any more`,
    `see how it ended: ${atServer(['verdigris', 'status', workflowId], flags)}`,
    EXIT.refused,
    cause,
  );
}

/** What the server knows of a run by itself. */
export function describe(workflowId: string, flags: ServerFlags): string {
  return atServer(['temporal', 'workflow', 'describe', '--workflow-id', workflowId], flags);
}

export function noSuchWorkflow(workflowId: string, flags: ServerFlags, cause: unknown): CommandError {
  const list = ['temporal', 'workflow', 'list', '--query', 'WorkflowType="blueGreenMigration"'];
  return new CommandError(
    `there is no workflow ${workflowId}`,
    `see which there are: ${atServer(list, flags)}; the name is the plan's "name"`,
    EXIT.unusable,
    cause,
  );
}
