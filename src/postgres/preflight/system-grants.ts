import { readLeftOut } from '../schema-copy/left-out-extensions.js';
import { canGiveOwnership } from '../schema-copy/ownership-given.js';
import { describeSystemGrants, differentSystemGrants } from '../schema-copy/system-grants.js';
import { NEW_GREEN, type PairCheck } from './check.js';

/** Grants on what the copy of the schema does not make, as far as it will not repeat them. */
export const systemGrants: PairCheck = {
  name: 'system-grants',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    if (green.isSuperuser) return [];
    const grantsAreCopied = await canGiveOwnership(blue.session, green.session, blue.plan.tables);
    const { extensions } = await readLeftOut(blue.session, green.session, blue.plan.tables);
    const different = await differentSystemGrants(blue.session, green.session, extensions);
    const missing = different.filter(({ own }) => !(grantsAreCopied && own));
    return describeSystemGrants(missing).map((message) => ({
      side: 'green' as const,
      severity: 'warning' as const,
      object: 'built-in objects and extensions',
      message,
      remedy: 'On green, as a superuser: the statements that are named; for extensions once they are there',
    }));
  },
};
