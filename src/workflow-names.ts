/** The task queue that the worker serves and the type of the workflow, as `temporal workflow start` names them. */
export const TASK_QUEUE = 'verdigris';
export const WORKFLOW_TYPE = 'blueGreenMigration';

/** The id of a migration's workflow: at most one run of it lives, and whoever asks whether it does asks for this id. */
export function workflowIdOf(name: string): string {
  return name.startsWith('verdigris/') ? name : `verdigris/${name}`;
}
