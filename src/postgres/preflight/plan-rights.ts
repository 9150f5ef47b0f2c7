import { planWork } from '../migrate/plan-work.js';
import { describePlanRights, missingPlanRights, rolesToAsk } from '../plan-rights.js';
import type { SideCheck } from './check.js';

/** What roles that are connected now would lack on green, whose grants are those of blue. */
export const planRights: SideCheck = {
  name: 'plan-rights',
  sides: ['blue'],
  onlyWarns: true,
  run: async ({ session, plan }) => {
    const missing = await missingPlanRights(session, await rolesToAsk(session, session), await planWork(plan));
    return missing.map((right) => ({
      severity: 'warning',
      object: right.table,
      message: `on green, with the grants of blue, ${describePlanRights([right]).join('')}`,
      remedy:
        right.to === 'write'
          ? 'Give it on blue before the run: it holds its promotion until green has it'
          : 'Give it on green when the run has added the columns, or SELECT on the whole table on blue before the run; nothing, where the role names its columns',
    }));
  },
};
