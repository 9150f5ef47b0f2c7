import type { Rule } from '../rule.js';

/** Rules on when steps may begin. */

export const migrateWindowOfCopy: Rule = {
  name: 'migrate-window-of-copy',
  severity: 'warning',
  why: 'with bootstrap "copy" new columns, indexes and constraints are made with the rows, in phase replicate: they begin when that may, and do not wait for windows.migrate',
  *check({ plan }) {
    if (plan.bootstrap.method !== 'copy' || plan.windows?.migrate === undefined) return;
    if (plan.windows.replicate !== undefined) return;
    yield {
      place: 'windows.migrate',
      message: `only what raw SQL leaves for phase migrate waits for ${plan.windows.migrate.join(', ')}: the copy, and with it the index builds, begins as soon as the run is started`,
      instead: 'write "replicate": the windows in which the copy may begin ("daily 00:00-24:00": at any time)',
    };
  },
};
