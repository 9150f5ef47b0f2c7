import { WorkflowExecutionAlreadyStartedError } from '@temporalio/client';
import { innermostMessage } from '../grpc-status.js';
import { hasErrors } from '../plan/finding.js';
import { lintPlan } from '../plan/lint.js';
import { taskQueueOf } from '../task-queue.js';
import { howToRegister } from '../worker/search-attributes.js';
import { WORKFLOW_TYPE } from '../../workflows/messages.js';
import { tellFindings } from './plan-commands.js';
import { readPlan } from './read-plan.js';
import { shellCommand } from './shell-quote.js';
import type { ServerFlags } from './start-request.js';
import { atServer, startOptions, startRequest, startWords } from './start-request.js';
import { addressOf, namespaceOf, withClient } from './temporal-client.js';
import type { ExitCode, Terminal } from './terminal.js';
import { CommandError, EXIT } from './terminal.js';

export interface StartFlags extends ServerFlags {
  readonly print?: boolean;
  readonly taskQueue?: string;
}

/** `verdigris start FILE`: lints the plan and starts its workflow, or prints the command that would. */
export async function startCommand(terminal: Terminal, file: string, flags: StartFlags): Promise<ExitCode> {
  const { written, parsed } = await readPlan(file);
  const findings = 'findings' in parsed ? parsed.findings : await lintPlan(parsed.plan);
  // Findings are notes here: what is printed must be the command alone.
  const notes: Terminal = { ...terminal, out: terminal.note };
  if (findings.length > 0) tellFindings(notes, file, findings);
  if ('findings' in parsed || hasErrors(findings)) return EXIT.refused;

  const request = startRequest(parsed.plan, flags.taskQueue ?? taskQueueOf(process.env), namespaceIn(flags));
  if (flags.print === true) {
    terminal.out(shellCommand(startWords(request, file, written, flags)));
    return EXIT.done;
  }
  await withClient(flags, async (client) => {
    try {
      const handle = await client.workflow.start(WORKFLOW_TYPE, startOptions(request, written));
      terminal.out(`started ${handle.workflowId} (run ${handle.firstExecutionRunId})`);
      terminal.note(`watch it with: ${atServer(['verdigris', 'watch', parsed.plan.name], flags)}`);
    } catch (error) {
      throw startFailed(error, parsed.plan.name, request.workflowId, flags);
    }
  });
  return EXIT.done;
}

/** A command is printed for other machines, too: what a profile says that only they have is not known here. */
function namespaceIn(flags: StartFlags): string {
  try {
    return namespaceOf(flags);
  } catch (error) {
    if (flags.print !== true) throw error;
    return 'default';
  }
}

function startFailed(error: unknown, name: string, workflowId: string, flags: ServerFlags): CommandError {
  if (error instanceof WorkflowExecutionAlreadyStartedError) {
    return new CommandError(
      `${workflowId} is running already`,
      `see it with: ${atServer(['verdigris', 'status', name], flags)}; where that says that it has ended, it sends its last notices, five minutes at most: start again then; another migration needs another "name"`,
      EXIT.refused,
      error,
    );
  }
  const message = innermostMessage(error);
  if (/search attribute/i.test(message)) {
    return new CommandError(
      `the server refused the search attributes of the run: ${message}`,
      `start a worker once (npm run worker): it registers them where it may; or ${howToRegister(addressOf(flags), namespaceOf(flags))}`,
      EXIT.unusable,
      error,
    );
  }
  return new CommandError(
    `${workflowId} was not started: ${message}`,
    'see the log of the Temporal server',
    EXIT.unusable,
    error,
  );
}
