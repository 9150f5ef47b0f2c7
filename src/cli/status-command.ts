import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { WorkflowNotFoundError, type QueryDefinition } from '@temporalio/common';
import { innermostMessage } from '../grpc-status.js';
import { renderDetails } from '../../workflows/lib/render-details.js';
import { progressLine } from '../progress.js';
import { doesNow, heldFor, notConfirmed, type MigrationStatus } from '../../workflows/lib/status.js';
import { statusQuery } from '../../workflows/messages.js';
import { noSuchWorkflow } from './message-command.js';
import type { ServerFlags } from './start-request.js';
import { workflowIdOf } from './start-request.js';
import { isNoAnswer, withClient } from './temporal-client.js';
import type { ExitCode, Terminal } from './terminal.js';
import { CommandError, EXIT } from './terminal.js';

export interface StatusFlags extends ServerFlags {
  readonly json?: boolean;
  /** Seconds to wait for a worker's answer. */
  readonly timeout: number;
}

/** `verdigris status NAME`: where the run is, what it waits for, and the command that answers it. */
export async function statusCommand(terminal: Terminal, name: string, flags: StatusFlags): Promise<ExitCode> {
  return withClient(flags, async (client) => {
    const status = await readStatus(client, workflowIdOf(name), flags.timeout);
    terminal.out(flags.json === true ? JSON.stringify(status, null, 2) : renderDetails(status));
    return EXIT.done;
  });
}

/** How often `watch` asks. */
const POLL_MS = 1_000;

/** `verdigris watch NAME`: a line for every change, until the run ends. 0 when it completed, else 1. */
export async function watchCommand(terminal: Terminal, name: string, flags: StatusFlags): Promise<ExitCode> {
  return withClient(flags, async (client) => {
    let last: readonly string[] = [];
    for (;;) {
      const seen = await readStatus(client, workflowIdOf(name), flags.timeout).catch(unlessNoAnswer);
      const lines = seen === undefined ? ['no worker answers; the run goes on when one is up'] : linesOf(seen);
      for (const line of lines.filter((text) => !last.includes(text))) {
        terminal.out(flags.json === true ? JSON.stringify(seen ?? { now: line }) : `${clock()}  ${line}`);
        if (flags.json === true) break;
      }
      last = lines;
      if (seen !== undefined && seen.outcome !== 'running')
        return seen.outcome === 'completed' ? EXIT.done : EXIT.refused;
      if (terminal.isClosed?.() === true) return EXIT.done;
      await sleep(POLL_MS);
    }
  });
}

/** What a person who watches wants to hear of once: each line is told again only after it was untrue. */
export function linesOf(status: MigrationStatus): string[] {
  const { waiting, rollingBack, promotion, verification } = status;
  const not = notConfirmed(status);
  return [
    `${status.phase}: ${status.outcome === 'running' ? doesNow(status) : status.now}`,
    ...status.progress.map(progressLine),
    `reads on green ${status.greenReadPercent} %, writes on ${status.writesOn}`,
    ...(not === null ? [] : [`reads are back on blue, ${not}`]),
    ...(status.paused ? ['paused'] : []),
    ...(verification === null
      ? []
      : [`verified ${verification.rowsVerified} rows, ${verification.differingRows} differ`]),
    ...(promotion === null ? [] : [`writes moved from ${promotion.from} to ${promotion.to}, ${heldFor(promotion)}`]),
    ...(rollingBack === null ? [] : [`rolling back: ${rollingBack.reason}`]),
    ...(waiting === null
      ? []
      : [`waits: ${waiting.why}${waiting.answer === undefined ? '' : `\n          answer with: ${waiting.answer}`}`]),
    ...status.warnings.map((warning) => `warning: ${warning}`),
    ...(status.failure === undefined ? [] : [status.failure.replaceAll('\n', '\n          ')]),
    ...(status.outcome === 'running' ? [] : [`ended: ${status.outcome}`]),
  ];
}

function clock(): string {
  return new Date().toISOString().slice(11, 19);
}

/** `watch` waits for a worker; every other failure ends it. */
function unlessNoAnswer(error: unknown): undefined {
  if (error instanceof CommandError && isNoAnswer(error.cause)) return undefined;
  throw error;
}

/** The status of a run. @throws CommandError when nobody answers for it. */
export function readStatus(client: Client, workflowId: string, timeout: number): Promise<MigrationStatus> {
  return queryRun(client, workflowId, statusQuery, timeout);
}

/** What a run answers to a query within `timeout` seconds. @throws CommandError when nobody answers for it. */
export async function queryRun<T>(
  client: Client,
  workflowId: string,
  query: QueryDefinition<T>,
  timeout: number,
): Promise<T> {
  try {
    return await client.withDeadline(Date.now() + timeout * 1_000, () =>
      client.workflow.getHandle(workflowId).query(query),
    );
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) throw noSuchWorkflow(workflowId, error);
    throw new CommandError(
      isNoAnswer(error) || /no poller/i.test(innermostMessage(error))
        ? `no worker has answered within ${timeout} s`
        : `${workflowId} can't be asked: ${innermostMessage(error)}`,
      `start a worker (npm run worker); what the server knows by itself: temporal workflow describe --workflow-id ${workflowId}`,
      EXIT.unusable,
      error,
    );
  }
}
