import type { WorkflowStartOptions } from '@temporalio/client';
import { defineSearchAttributeKey, TypedSearchAttributes } from '@temporalio/common';
import type { Plan } from '../plan/schema.js';
import { WORKFLOW_TYPE } from '../../workflows/messages.js';
import { workflowIdOf } from '../workflow-names.js';
import { detailsOf, summaryOf } from './describe-plan.js';
import { shellQuote } from './shell-quote.js';

export { workflowIdOf };

/** What a run is started with: the same whether this command does it or the printed one. */
export interface StartRequest {
  readonly workflowId: string;
  readonly taskQueue: string;
  readonly summary: string;
  readonly details: string;
}

const PHASE = defineSearchAttributeKey('VerdigrisPhase', 'KEYWORD');
const TRAFFIC = defineSearchAttributeKey('VerdigrisTraffic', 'INT');

/** @param namespace the one in which the run is started: its commands name it */
export function startRequest(plan: Plan, taskQueue: string, namespace: string): StartRequest {
  const workflowId = workflowIdOf(plan.name);
  return { workflowId, taskQueue, summary: summaryOf(plan), details: detailsOf(plan, workflowId, namespace) };
}

/** A command of ours, or of the official CLI, about the same server: ready to be copied. */
export function atServer(words: readonly string[], flags: ServerFlags): string {
  return [...words, ...serverFlags(flags)].map(shellQuote).join(' ');
}

/** The request as the client takes it. The plan goes in as it was written; the workflow fills the defaults in. */
export function startOptions(request: StartRequest, written: unknown): WorkflowStartOptions {
  return {
    workflowId: request.workflowId,
    taskQueue: request.taskQueue,
    args: [written],
    // A second start while one runs is refused: this is the lock against two migrations of one name at once.
    workflowIdConflictPolicy: 'FAIL',
    workflowIdReusePolicy: 'ALLOW_DUPLICATE',
    staticSummary: request.summary,
    staticDetails: request.details,
    typedSearchAttributes: new TypedSearchAttributes([
      { key: PHASE, value: 'preflight' },
      { key: TRAFFIC, value: 0 },
    ]),
  };
}

/** Where the server is, when it was said on the command line; else the environment says it to both commands alike. */
export interface ServerFlags {
  readonly address?: string;
  readonly namespace?: string;
  readonly profile?: string;
}

/** The flags of the official CLI that mean the same. */
export function serverFlags(flags: ServerFlags): string[] {
  return [
    ...(flags.address === undefined ? [] : ['--address', flags.address]),
    ...(flags.namespace === undefined ? [] : ['--namespace', flags.namespace]),
    ...(flags.profile === undefined ? [] : ['--profile', flags.profile]),
  ];
}

/** The words of the equal `temporal workflow start`. A plan that came through standard input is written into it. */
export function startWords(request: StartRequest, file: string, written: unknown, flags: ServerFlags): string[] {
  return [
    ...['temporal', 'workflow', 'start'],
    ...['--type', WORKFLOW_TYPE],
    ...['--task-queue', request.taskQueue],
    ...['--workflow-id', request.workflowId],
    ...['--id-conflict-policy', 'Fail'],
    ...['--id-reuse-policy', 'AllowDuplicate'],
    ...(file === '-' ? ['--input', JSON.stringify(written)] : ['--input-file', file]),
    ...['--search-attribute', 'VerdigrisPhase="preflight"'],
    ...['--search-attribute', 'VerdigrisTraffic=0'],
    ...['--static-summary', request.summary],
    ...['--static-details', request.details],
    ...serverFlags(flags),
  ];
}
