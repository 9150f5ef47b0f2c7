import { WorkflowNotFoundError } from '@temporalio/common';
import { migrationOf } from '../postgres/doctor/plan-cleaning.js';
import type { Found } from '../postgres/doctor/inventory.js';
import type { Liveness } from '../postgres/doctor/liveness.js';
import type { ServerFlags } from './start-request.js';
import { workflowIdOf } from './start-request.js';
import { innermostMessage, withClient } from './temporal-client.js';

/** How long Temporal may take to say whether a workflow runs. */
const ASK_TIMEOUT_MS = 5_000;

/**
 * Whether the run that owns the databases lives: Temporal is asked by the migration's name. When it can't be asked, or
 * knows no such workflow although no end is written down, the run counts as living, unless a person has said by
 * `--run-is-over` that it is not.
 */
export async function askLiveness(
  found: Found,
  flags: ServerFlags & { readonly runIsOver?: string },
  planName: string | undefined,
): Promise<Liveness> {
  const migration = migrationOf(found);
  const atWork = sessionsOfWorkers(found);
  if (flags.runIsOver !== undefined) {
    const name = migration ?? planName;
    if (name !== undefined && flags.runIsOver !== name) {
      return { state: 'unknown', why: `--run-is-over names "${flags.runIsOver}", but the migration is "${name}"` };
    }
    if (atWork.length > 0)
      return { state: 'lives', why: `sessions of a worker are open (${atWork.join(', ')}): stop it first` };
    return { state: 'over', why: `--run-is-over says that "${flags.runIsOver}" is over` };
  }
  const ended = writtenDownEnd(found);
  const name = migration ?? planName;
  if (name === undefined) {
    return { state: 'unknown', why: 'no migration is known here whose workflow Temporal could be asked for' };
  }
  const asked = await askTemporal(name, flags);
  if (asked.state !== 'over') {
    // The database's own word is enough: it is the last thing that a run writes.
    return asked.state === 'unknown' && ended !== undefined ? { state: 'over', why: ended } : asked;
  }
  if (!asked.known && ended === undefined) {
    if (atWork.length > 0)
      return { state: 'lives', why: `${asked.why}, but sessions of a worker are open (${atWork.join(', ')})` };
    // It may live in another namespace or on another server: the databases have heard of no end.
    if (migration !== undefined)
      return { state: 'unknown', why: `${asked.why}, but the databases belong to a run without an end` };
  }
  return { state: 'over', why: ended === undefined ? asked.why : `${ended}; ${asked.why}` };
}

type Asked = (Liveness & { readonly known?: boolean }) & { readonly known: boolean };

async function askTemporal(name: string, flags: ServerFlags): Promise<Asked> {
  const workflowId = workflowIdOf(name);
  try {
    return await withClient(flags, async (client) => {
      try {
        const { status } = await client.withDeadline(Date.now() + ASK_TIMEOUT_MS, () =>
          client.workflow.getHandle(workflowId).describe(),
        );
        const state = LIVING.has(status.name) ? 'lives' : 'over';
        return { state, known: true, why: `Temporal says that workflow ${workflowId} is ${status.name}` };
      } catch (error) {
        if (!(error instanceof WorkflowNotFoundError)) throw error;
        const namespace = client.options.namespace;
        return {
          state: 'over',
          known: false,
          why: `Temporal knows no workflow ${workflowId} in namespace ${namespace}`,
        };
      }
    });
  } catch (error) {
    return { state: 'unknown', known: false, why: `Temporal could not be asked: ${innermostMessage(error)}` };
  }
}

/** Everything else is an end. A paused or continued workflow goes on. */
const LIVING: ReadonlySet<string> = new Set(['RUNNING', 'CONTINUED_AS_NEW', 'PAUSED', 'UNKNOWN', 'UNSPECIFIED']);

function sessionsOfWorkers(found: Found): string[] {
  return (['blue', 'green'] as const).flatMap((side) => {
    const one = found[side];
    return one.reached ? one.inventory.sessions.map(({ pid, purpose }) => `${side} pid ${pid}: ${purpose}`) : [];
  });
}

/** What a run that ended in order has written down on every side that still knows it. */
function writtenDownEnd(found: Found): string | undefined {
  const owners = (['blue', 'green'] as const).flatMap((side) => {
    const one = found[side];
    return one.reached && one.inventory.owner !== null ? [one.inventory.owner] : [];
  });
  const [first] = owners;
  if (first === undefined || owners.some(({ outcome }) => outcome === null)) return undefined;
  return `run ${first.runId} has ended: ${first.outcome ?? ''}`;
}
