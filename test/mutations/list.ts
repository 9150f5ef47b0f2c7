import { DATA_RULES } from './data-rules.js';
import { FENCE_RULES } from './fence-rules.js';
import { LATE_RULES } from './late-rules.js';
import type { Mutation } from './mutation.js';
import { POOLER_RULES } from './pooler-rules.js';
import { PROMOTION_RULES } from './promotion-rules.js';

/** Every rule with the test that notices when it is gone: told for people in docs/mistakes.md. */
export const MUTATIONS: readonly Mutation[] = [
  ...PROMOTION_RULES,
  ...LATE_RULES,
  ...FENCE_RULES,
  ...POOLER_RULES,
  ...DATA_RULES,
];
