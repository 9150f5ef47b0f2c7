import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { WorkflowUpdateFailedError, type Client } from '@temporalio/client';
import { WorkflowNotFoundError } from '@temporalio/common';
import { linkUrl, signLink } from '../approval/link.js';
import { ApprovalRefused, approvalServer, RunUnreachable, type Runs } from '../approval/server.js';
import { approvalSecret, approvalUrl } from '../approval/settings.js';
import { VerdigrisError } from '../errors.js';
import { firstLine } from '../failure-text.js';
import { innermostMessage } from '../grpc-status.js';
import { secretsOf, secretsRead } from '../worker/connections.js';
import { redactor } from '../worker/redact.js';
import { parseDuration } from '../plan/duration.js';
import { personKey } from '../plan/person.js';
import { approvalPolicy } from '../../workflows/lib/approval-question.js';
import { approveUpdate, planQuery, statusQuery } from '../../workflows/messages.js';
import type { ServerFlags } from './start-request.js';
import { atServer, workflowIdOf } from './start-request.js';
import { queryRun, readStatus } from './status-command.js';
import { isNoAnswer, withClient } from './temporal-client.js';
import type { ExitCode, Terminal } from './terminal.js';
import { CommandError, EXIT } from './terminal.js';

export interface ServeFlags extends ServerFlags {
  readonly host: string;
  readonly port: number;
  /** Seconds to wait for a worker's answer. */
  readonly timeout: number;
  /** Ends the server; by default SIGINT and SIGTERM do. */
  readonly signal?: AbortSignal;
}

/** `verdigris approvals serve`: the pages behind approval links, until it is asked to stop. */
export async function serveCommand(terminal: Terminal, flags: ServeFlags): Promise<ExitCode> {
  requiredSecret();
  const redact = redactor(secretsOf(process.env), secretsRead);
  const log = (line: string): void => terminal.note(`${new Date().toISOString()} ${redact(line)}`);
  return withClient(flags, async (client) => {
    const server = approvalServer(runsOf(client, flags.timeout), requiredSecret, { log });
    server.listen(flags.port, flags.host);
    await once(server, 'listening');
    const { address, port } = server.address() as AddressInfo;
    terminal.out(`approval links are answered at http://${address.includes(':') ? `[${address}]` : address}:${port}`);
    if (approvalUrl(process.env) === undefined) {
      terminal.note(
        'VERDIGRIS_APPROVAL_URL is not set here: `verdigris approvals link` needs --url. Notifications carry links where the workers have it',
      );
    }
    await stopped(flags.signal);
    server.close();
    server.closeAllConnections();
    return EXIT.done;
  });
}

async function stopped(signal?: AbortSignal): Promise<void> {
  if (signal === undefined) {
    await Promise.race([once(process, 'SIGINT'), once(process, 'SIGTERM')]);
  } else if (!signal.aborted) {
    await once(signal, 'abort');
  }
}

export interface LinkFlags extends ServerFlags {
  /** Whom the link is made out to. */
  readonly for?: string;
  /** From now on. Default: `validFor` of the plan. */
  readonly validFor?: string;
  readonly url?: string;
  readonly timeout: number;
}

/** `verdigris approvals link NAME`: a link that approves what the run asks now. */
export async function linkCommand(terminal: Terminal, name: string, flags: LinkFlags): Promise<ExitCode> {
  const secret = requiredSecret();
  const base = flags.url ?? approvalUrl(process.env);
  if (base === undefined) {
    throw new CommandError(
      'nobody has said where approval links lead',
      'set VERDIGRIS_APPROVAL_URL to where `verdigris approvals serve` is reached, or give --url',
    );
  }
  const workflowId = workflowIdOf(name);
  const { status, validForMs } = await withClient(flags, async (client) => ({
    status: await readStatus(client, workflowId, flags),
    validForMs:
      flags.validFor === undefined
        ? approvalPolicy(await queryRun(client, workflowId, planQuery, flags)).validForMs
        : parseDuration(flags.validFor),
  }));
  const { waiting } = status;
  if (waiting?.for !== 'approval' || waiting.gate === undefined || waiting.request === undefined) {
    throw new CommandError(
      `the run waits for no approval now (${status.now})`,
      `see what it waits for: ${atServer(['verdigris', 'status', name], flags)}`,
      EXIT.refused,
    );
  }
  if (flags.for === undefined && waiting.mayApprove !== undefined) {
    throw new CommandError(
      'the plan names who may approve: a link is made out to one of them',
      `give --for, one of: ${waiting.mayApprove.join(', ')}`,
      EXIT.refused,
    );
  }
  if (flags.for !== undefined && !mayApprove(flags.for, waiting.mayApprove)) {
    throw new CommandError(
      `the plan does not name "${flags.for}" among those who may approve`,
      `give --for, one of: ${(waiting.mayApprove ?? []).join(', ')}`,
      EXIT.refused,
    );
  }
  const token = signLink(
    {
      workflowId,
      runId: status.runId,
      gate: waiting.gate,
      request: waiting.request,
      ...(flags.for === undefined ? {} : { by: flags.for }),
      expires: Math.floor((Date.now() + validForMs) / 1_000),
    },
    secret,
  );
  terminal.out(linkUrl(base, token));
  return EXIT.done;
}

/** @param people of the plan; undefined where anybody may */
function mayApprove(who: string, people: readonly string[] | undefined): boolean {
  return people === undefined || people.some((one) => personKey(one) === personKey(who));
}

function requiredSecret(): string {
  const secret = orCommandError(() => approvalSecret(process.env));
  if (secret !== undefined) return secret;
  throw new CommandError(
    'there is no secret to sign approval links with',
    'set VERDIGRIS_APPROVAL_SECRET (or VERDIGRIS_APPROVAL_SECRET_FILE), here and where the workers run; make one with: openssl rand -hex 32',
  );
}

function orCommandError<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof VerdigrisError)) throw error;
    throw new CommandError(firstLine(error.message), error.nextStep, EXIT.unusable, error);
  }
}

/** The runs of a Temporal server, as the pages need them. */
export function runsOf(client: Client, timeout: number): Runs {
  const within = <T>(call: () => Promise<T>): Promise<T> => client.withDeadline(Date.now() + timeout * 1_000, call);
  return {
    view: async (workflowId) => {
      try {
        return await within(() => client.workflow.getHandle(workflowId).query(statusQuery));
      } catch (error) {
        throw unreachable(workflowId, timeout, error);
      }
    },
    approve: async (workflowId, approval, updateId) => {
      try {
        return await within(() =>
          client.workflow.getHandle(workflowId).executeUpdate(approveUpdate, { args: [approval], updateId }),
        );
      } catch (error) {
        if (error instanceof WorkflowUpdateFailedError) throw new ApprovalRefused(innermostMessage(error));
        throw unreachable(workflowId, timeout, error);
      }
    },
  };
}

function unreachable(workflowId: string, timeout: number, error: unknown): RunUnreachable {
  if (error instanceof WorkflowNotFoundError) return new RunUnreachable(410, `there is no run ${workflowId}`, error);
  return isNoAnswer(error) || /no poller/i.test(innermostMessage(error))
    ? new RunUnreachable(503, `no worker has answered within ${timeout} s: try again when one is up`, error)
    : new RunUnreachable(503, 'the Temporal server can not be asked now: try again', error);
}
