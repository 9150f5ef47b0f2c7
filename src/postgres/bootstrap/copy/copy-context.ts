import type { Plan } from '../../../plan/schema.js';
import type { Run } from '../../ownership.js';
import type { Databases } from '../../session.js';

/** What the parts of a copy are given. */
export interface CopyContext {
  readonly databases: Databases;
  readonly run: Run;
  readonly plan: Plan;
  readonly signal: AbortSignal;
  /** What people are shown. */
  readonly report: (progress: object) => void;
}
