import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { WorkflowNotFoundError, type QueryDefinition } from '@temporalio/common';
import { innermostMessage } from '../grpc-status.js';
import { renderDetails, section } from '../../workflows/lib/render-details.js';
import { progressLine } from '../progress.js';
import { doesNow, heldFor, notConfirmed, type Alarm, type MigrationStatus } from '../../workflows/lib/status.js';
import { statusQuery } from '../../workflows/messages.js';
import { describe, noSuchWorkflow } from './message-command.js';
import { readStandbyNow } from './standby-now.js';
import type { ServerFlags } from './start-request.js';
import { workflowIdOf } from './start-request.js';
import { isNoAnswer, withClient } from './temporal-client.js';
import type { ExitCode, Terminal } from './terminal.js';
import { CommandError, EXIT } from './terminal.js';

interface AskedFlags extends ServerFlags {
  /** Seconds to wait for a worker's answer. */
  readonly timeout: number;
}

export interface StatusFlags extends AskedFlags {
  readonly json?: boolean;
}

/** `verdigris status NAME`: where the run is, what it waits for, and the command that answers it. */
export async function statusCommand(terminal: Terminal, name: string, flags: StatusFlags): Promise<ExitCode> {
  return withClient(flags, async (client) => {
    const workflowId = workflowIdOf(name);
    const status = await readStatus(client, workflowId, flags);
    if (flags.json === true) terminal.out(JSON.stringify(status, null, 2));
    else {
      const isStandby = status.outcome === 'running' && status.phase === 'standby';
      const now = isStandby ? await readStandbyNow(client, workflowId, flags.timeout * 1_000) : [];
      terminal.out([renderDetails(status), ...section('Standby window, now', now)].join('\n'));
    }
    return EXIT.done;
  });
}

/** How often `watch` asks. */
const POLL_MS = 1_000;

/** `verdigris watch NAME`: a line for every change, until the run ends. 0 when it completed, else 1. */
export async function watchCommand(terminal: Terminal, name: string, flags: StatusFlags): Promise<ExitCode> {
  return withClient(flags, async (client) => {
    let last: readonly string[] = [];
    let alarms: readonly Alarm[] = [];
    for (;;) {
      const seen = await readStatus(client, workflowIdOf(name), flags).catch(unlessNoAnswer);
      const over = seen?.outcome === 'running' ? overSince(alarms, seen) : [];
      alarms = seen?.alarms ?? alarms;
      const lines =
        seen === undefined ? ['no worker answers; the run goes on when one is up'] : [...linesOf(seen), ...over];
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

/** The alarms that there were, and are no more. */
export function overSince(before: readonly Alarm[], { alarms = [] }: MigrationStatus): string[] {
  return before.filter(({ about }) => !alarms.some((one) => one.about === about)).map(({ why }) => `over: ${why}`);
}

/** What a person who watches wants to hear of once: each line is told again only after it was untrue. */
export function linesOf(status: MigrationStatus): string[] {
  const { waiting, held = null, rollingBack, promotion, verification, rollback, alarms = [] } = status;
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
    ...(held === null ? [] : [`held: ${held.why}\n          answer with: ${held.answer}`]),
    ...(status.outcome === 'running' && !rollback.safe ? [`rollback NOT safe: ${rollback.why}`] : []),
    ...alarms.map(({ why, next }) => `alarm: ${why}\n          next step: ${next}`),
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
export function readStatus(client: Client, workflowId: string, flags: AskedFlags): Promise<MigrationStatus> {
  return queryRun(client, workflowId, statusQuery, flags);
}

/** What a run answers to a query within `flags.timeout` seconds. @throws CommandError when nobody answers for it. */
export async function queryRun<T>(
  client: Client,
  workflowId: string,
  query: QueryDefinition<T>,
  flags: AskedFlags,
): Promise<T> {
  const { timeout } = flags;
  try {
    return await client.withDeadline(Date.now() + timeout * 1_000, () =>
      client.workflow.getHandle(workflowId).query(query),
    );
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) throw noSuchWorkflow(workflowId, flags, error);
    throw new CommandError(
      isNoAnswer(error) || /no poller/i.test(innermostMessage(error))
        ? `no worker has answered within ${timeout} s`
        : `${workflowId} can't be asked: ${innermostMessage(error)}`,
      `start a worker${await ofTaskQueue(client, workflowId)} (npm run worker); what the server knows by itself: ${describe(workflowId, flags)}`,
      EXIT.unusable,
      error,
    );
  }
}

/** A worker may be up and serve another queue: the server knows which one the run needs. */
async function ofTaskQueue(client: Client, workflowId: string): Promise<string> {
  const described = client.withDeadline(Date.now() + DESCRIBE_MS, () =>
    client.workflow.getHandle(workflowId).describe(),
  );
  return described.then(
    ({ taskQueue }) => ` with VERDIGRIS_TASK_QUEUE=${taskQueue}`,
    () => '',
  );
}

const DESCRIBE_MS = 5_000;
