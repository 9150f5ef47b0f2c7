import { tryPlan } from '../migrate/plan-trial.js';
import { planWork } from '../migrate/plan-work.js';
import { ident } from '../identifier.js';
import { oneRow, type SideCheck } from './check.js';
import { STANDBY } from './standby.js';

/**
 * What PostgreSQL refuses of the plan. A standby has what blue has, and tells nothing before its promotion, which can't be
 * undone; where the schema is copied, green itself is asked before the rows.
 */
export const planOnBlue: SideCheck = {
  name: 'plan-on-blue',
  sides: ['blue'],
  methods: STANDBY,
  run: async ({ session, plan, tables }) => {
    const work = await planWork(plan);
    const { mistakes, untried } = await tryPlan({ session, blue: session, moved: await tables(), work });
    const found = mistakes.map(({ object, message }) => ({
      severity: 'error' as const,
      object,
      message: `PostgreSQL refuses it: ${message}`,
      remedy: 'Correct it in the plan: it would be refused when green is promoted, and no standby any more',
    }));
    if (untried === undefined) return found;
    const { database, user } = await oneRow<{ database: string; user: string }>(
      session,
      'SELECT current_database() AS database, current_user AS user',
    );
    return [
      ...found,
      {
        severity: 'warning' as const,
        object: 'migrations',
        message: `not all of the plan could be tried on blue, so a mistake in it may come out when green is promoted: ${untried instanceof Error ? untried.message : String(untried)}`,
        remedy: `Where a privilege is missing: GRANT TEMPORARY ON DATABASE ${ident(database)} TO ${ident(user)}; or rehearse the plan on a copy`,
      },
    ];
  },
};
