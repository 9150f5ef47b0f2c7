/** The task queue that the worker serves and the type of the workflow, as `temporal workflow start` names them. */
export const TASK_QUEUE = 'verdigris';
export const WORKFLOW_TYPE = 'blueGreenMigration';
