import { defineQuery, defineSignal, defineUpdate } from '@temporalio/workflow';
import type { Plan } from '../src/plan/schema.js';
import type { MigrationStatus } from './lib/status.js';
import type { Progress } from '../src/postgres/migrate/step-context.js';
import type { Evidence } from './lib/evidence.js';

/*
 * The messages of a run. Each command is an update (checked before it is accepted, and answered) and a signal of the
 * same name and meaning (works while no worker is up; one that can't be followed is recorded as ignored).
 * Who and why are required: the Web UI does not record who sent a message.
 */

/** Fields of every message: who sends it, and why. */
export interface Message {
  readonly by: string;
  readonly reason: string;
}

/**
 * A rollback. Where blue no longer has everything that green has, it is refused unless the loss is accepted: the refusal
 * and `status.rollback.loses` say how much that is.
 */
export interface Rollback extends Message {
  readonly acceptLoss?: boolean;
}

/** An approval names what it approves: `traffic`, `stage-<percent>`, `promote` or `retire`. */
export interface Approval extends Message {
  readonly gate: string;
  /** The id of the question that it answers, as `status.waiting.request` has it: then it can't answer another one. */
  readonly request?: string;
}

export { TASK_QUEUE, WORKFLOW_TYPE } from '../src/workflow-names.js';

export const approveUpdate = defineUpdate<string, [Approval]>('approve');
export const pauseUpdate = defineUpdate<string, [Message]>('pause');
export const resumeUpdate = defineUpdate<string, [Message]>('resume');
export const rollbackUpdate = defineUpdate<string, [Rollback]>('rollback');
export const retireUpdate = defineUpdate<string, [Message]>('retire');

export const approveSignal = defineSignal<[Approval]>('approve');
export const pauseSignal = defineSignal<[Message]>('pause');
export const resumeSignal = defineSignal<[Message]>('resume');
export const rollbackSignal = defineSignal<[Rollback]>('rollback');
export const retireSignal = defineSignal<[Message]>('retire');

/** Sent by the run's own activities now and then: how far they are. Nobody else needs it. */
export const progressSignal = defineSignal<[readonly Progress[]]>('progress');

export const statusQuery = defineQuery<MigrationStatus>('status');
export const planQuery = defineQuery<Plan | null>('plan');
export const evidenceQuery = defineQuery<readonly Evidence[]>('evidence');
