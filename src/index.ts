/**
 * Verdigris moves a live PostgreSQL database to a new server with a new schema, with zero downtime. This entry has what
 * tools around it need: plans, their lint, and the messages of a run. The router for applications is `verdigris/router`.
 *
 * @packageDocumentation
 */
export type {
  AddColumn,
  AddConstraint,
  ApprovalPoint,
  ChangeType,
  CreateIndex,
  Gate,
  Migration,
  Plan,
  PlanInput,
  SetNotNull,
  SqlStep,
  Stage,
} from './plan/schema.js';
export { planSchema } from './plan/schema.js';
export { planJsonSchema } from './plan/json-schema.js';
export type { ParsedPlan } from './plan/parse.js';
export { parsePlan } from './plan/parse.js';
export type { Finding } from './plan/finding.js';
export { formatFinding, hasErrors } from './plan/finding.js';
export { lintAgainstCatalog, lintPlan } from './plan/lint.js';
export type { CatalogSummary } from './postgres/catalog-summary.js';
export type { ErrorType } from './errors.js';
export { ERROR_TYPES, VerdigrisError } from './errors.js';
export type { Side } from './side.js';
export type { Approval, Message } from '../workflows/messages.js';
export {
  TASK_QUEUE,
  WORKFLOW_TYPE,
  approveSignal,
  approveUpdate,
  evidenceQuery,
  pauseSignal,
  pauseUpdate,
  planQuery,
  resumeSignal,
  resumeUpdate,
  retireSignal,
  retireUpdate,
  rollbackSignal,
  rollbackUpdate,
  statusQuery,
} from '../workflows/messages.js';
export type { Evidence } from '../workflows/lib/evidence.js';
export type { Decision, MigrationStatus, Outcome, Phase, PhaseTimes, Waiting } from '../workflows/lib/status.js';
