import { TASK_QUEUE } from './workflow-names.js';

/** The task queue that workers serve and runs are started on, where nobody says another one: VERDIGRIS_TASK_QUEUE. */
export function taskQueueOf(environment: Readonly<Record<string, string | undefined>>): string {
  const named = environment['VERDIGRIS_TASK_QUEUE'];
  return named === undefined || named === '' ? TASK_QUEUE : named;
}
