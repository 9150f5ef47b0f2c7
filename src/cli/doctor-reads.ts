import type { VerdigrisError } from '../errors.js';
import { reasonOf } from '../failure-text.js';
import { isWrittenFor, writeFlagdFile } from '../flags/flagd-file.js';
import type { FlagState } from '../flags/flagd-flags.js';
import { haproxiesOf } from '../haproxy/from-plan.js';
import type { Haproxies, Haproxy } from '../haproxy/haproxy.js';
import { Instance } from '../haproxy/instance.js';
import { isNotRunning } from '../haproxy/runtime-api.js';
import { weightsOf } from '../haproxy/weights.js';
import type { Plan } from '../plan/schema.js';
import { routeInForce, type Found } from '../postgres/doctor/inventory.js';
import type { Kept } from '../postgres/doctor/plan-cleaning.js';
import { otherSide, type Side } from '../side.js';
import type { Environment } from '../worker/connections.js';

/*
 * Routers and providers read the route, and go where writes are when it is gone. A HAProxy and the file for flagd keep
 * what they were told last: when the feed ends, users would read on a side that never changes again.
 */

export interface FlagsToWrite {
  readonly path: string;
  readonly state: FlagState;
}

export type ReadsLed =
  | { readonly refused: true; readonly why: string; readonly next: string }
  /** `flags` is to be written before the feed ends. */
  | { readonly refused: false; readonly flags?: FlagsToWrite };

/** Where the HAProxies and the flags of a plan lead reads, before the feeds of its run end. Changes nothing. */
export async function lookAtReads(plan: Plan, found: Found, environment: Environment): Promise<ReadsLed> {
  const route = routeInForce(found);
  const writesOn = route?.writesOn ?? 'blue';
  // Blue alone knows the share: while it is away what readers of green need stays (mayFeedReaders), and a later migration has
  // it only when the reads were back.
  if (writesOn === 'blue' && !found.blue.reached) return { refused: false };
  const astray = await haproxiesOn(otherSide(writesOn), plan, environment);
  if (astray !== undefined) return { refused: true, ...astray };
  const path = plan.traffic.flagd?.path;
  const run = runOf(found);
  if (path === undefined || route === undefined || run === undefined) return { refused: false };
  if (await isWrittenFor(path, route.migration)) {
    const greenReadPercent = writesOn === 'green' ? 100 : 0;
    return { refused: false, flags: { path, state: { run, route: { ...route, greenReadPercent } } } };
  }
  if (writesOn === 'green' || route.greenReadPercent === 0) return { refused: false };
  return {
    refused: true,
    why: `flagd leads ${route.greenReadPercent} % of its users to green, which will get no rows any more, and its file ${path} is not here`,
    next: `run this on a machine that sees the file, as the worker does; or have flagd answer "blue", then ${BY_NAMES}`,
  };
}

const BY_NAMES = 'clean up with --blue and --green in place of the plan, which looks at the databases alone';

/** @returns what has become of it, in words; `failed` where flagd's users are still led as before */
export async function writeFlagsBack({ path, state }: FlagsToWrite): Promise<{ failed: boolean; what: string }> {
  const what = `flagd: write its file ${path}: everybody on ${state.route.writesOn}`;
  try {
    if ((await writeFlagdFile(path, state)) === 'written') return { failed: false, what };
    return { failed: true, what: `${what}: it is of a later route than that of the databases, which may be restored` };
  } catch (error) {
    return { failed: true, what: `${what}: ${reasonOf(error)}` };
  }
}

/** What is said where no plan names what else leads reads. */
export function readsUnseen(found: Found): Kept[] {
  const route = routeInForce(found);
  if (route === undefined || route.writesOn === 'green' || route.greenReadPercent === 0) return [];
  return [
    {
      side: 'green',
      what: `${route.greenReadPercent} % of the reads, where a HAProxy or flagd shares them`,
      why: 'routers and providers go back to blue by themselves, these do not: give the plan, which names them, or lead them to blue first',
    },
  ];
}

function runOf({ blue, green }: Found): string | undefined {
  return [blue, green].flatMap((one) => (one.reached ? [one.inventory.owner?.runId] : [])).find((run) => run);
}

/** Undefined where none of them leads anybody to that side. */
async function haproxiesOn(
  side: Side,
  plan: Plan,
  environment: Environment,
): Promise<{ why: string; next: string } | undefined> {
  const unknown: VerdigrisError[] = [];
  const setup = haproxiesOf(plan, environment, (error) => unknown.push(error));
  if (setup === undefined) return undefined;
  const [first] = unknown;
  if (first !== undefined) {
    return { why: first.what, next: `${first.nextStep} (here it is this shell that needs it); or ${BY_NAMES}` };
  }
  const why = (await Promise.all(setup.instances.map((haproxy) => whyOn(side, setup, haproxy)))).flat();
  if (why.length === 0) return undefined;
  const server = (one: Side): string => `${setup.backend}/${setup.servers[one]}`;
  const weights = weightsOf(side === 'green' ? 0 : 100);
  const commands = [
    ...[otherSide(side), side].map((one) => `set server ${server(one)} weight ${weights[one]}`),
    `shutdown sessions server ${server(side)}`,
  ];
  return {
    why: `reads may be led to ${side}, which will get no rows any more: ${why.join('; ')}`,
    next: `on the machine of each, by the socket of its runtime API: echo '${commands.join('; ')}' | socat stdio SOCKET (docs/haproxy.md, "By hand"), then again. Where one is gone for good: ${BY_NAMES}`,
  };
}

async function whyOn(side: Side, setup: Haproxies, haproxy: Haproxy): Promise<string[]> {
  const instance = new Instance(haproxy, setup);
  try {
    const weight = (await instance.servers()).find(({ name }) => name === setup.servers[side])?.weight ?? 0;
    const open = await instance.connectionsTo(side);
    if (weight === 0 && open === 0) return [];
    return [`HAProxy "${haproxy.connection}" gives ${side} the weight ${weight}, and has ${open} connections to it`];
  } catch (error) {
    return isNotRunning(error) ? [] : [reasonOf(error)];
  }
}
