import type { Plan } from '../plan/schema.js';
import type { Finding } from '../postgres/doctor/diagnose.js';
import type { Found } from '../postgres/doctor/inventory.js';
import { shellQuote } from './shell-quote.js';
import { serverFlags, type ServerFlags } from './start-request.js';
import { CommandError, EXIT } from './terminal.js';

/**
 * The finding that a plan is not that of the run which the databases belong to. Only that one names the HAProxys, flags,
 * PgBouncers and tables of the run. One that has ended in order has left none of them astray: then any plan will do.
 *
 * @param found without a side that was handed on
 * @param mode the flag that was given, for the next step
 */
export function planOfAnother(
  plan: Plan | undefined,
  found: Found,
  flags: ServerFlags,
  mode?: string,
): Finding | undefined {
  if (plan === undefined) return undefined;
  const owner = [found.blue, found.green]
    .flatMap((one) => (one.reached && one.inventory.owner !== null ? [one.inventory.owner] : []))
    .find(({ migration, outcome }) => outcome === null && migration !== plan.name);
  if (owner === undefined) return undefined;
  const names = ['--blue', plan.blue.connection, '--green', plan.green.connection];
  const words = [...names, ...(mode === undefined ? [] : [mode]), ...serverFlags(flags)].map(shellQuote).join(' ');
  return {
    severity: 'problem',
    side: null,
    what: `this is the plan of "${plan.name}", and the databases belong to "${owner.migration}", whose run may have other HAProxys, flags, PgBouncers and tables`,
    next: `give the plan of "${owner.migration}"; where it is lost, the names of the connections: verdigris doctor ${words}`,
  };
}

/** Nothing is changed by the plan of another run. */
export function refusePlanOfAnother(plan: Plan | undefined, found: Found, flags: ServerFlags, mode: string): void {
  const another = planOfAnother(plan, found, flags, mode);
  if (another !== undefined) throw new CommandError(another.what, another.next, EXIT.refused);
}
