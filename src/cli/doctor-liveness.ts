import type { Client, WorkflowExecutionDescription } from '@temporalio/client';
import { WorkflowNotFoundError } from '@temporalio/common';
import { innermostMessage } from '../grpc-status.js';
import { migrationOf } from '../postgres/doctor/plan-cleaning.js';
import type { Found } from '../postgres/doctor/inventory.js';
import type { OwnerFound } from '../postgres/doctor/read-state.js';
import type { Liveness } from '../postgres/doctor/liveness.js';
import type { Side } from '../side.js';
import type { ServerFlags } from './start-request.js';
import { workflowIdOf } from './start-request.js';
import { withClient } from './temporal-client.js';

/** How long Temporal may take to say whether a workflow runs. */
const ASK_TIMEOUT_MS = 5_000;

/**
 * Whether the run that owns the databases lives: Temporal is asked by the migration's name. When it can't be asked, or
 * knows no such workflow, or only other runs of it, although no end is written down, the run counts as living, unless a
 * person has said by `--run-is-over` that it is not: a word that Temporal, where it answers, may still contradict.
 */
export async function askLiveness(
  found: Found,
  flags: ServerFlags & { readonly runIsOver?: string },
  planName: string | undefined,
): Promise<Liveness> {
  const migration = migrationOf(found);
  const sessions = sessionsOfWorkers(found);
  if (flags.runIsOver !== undefined) {
    const name = migration ?? planName;
    if (name !== undefined && flags.runIsOver !== name) {
      return { state: 'unknown', why: `--run-is-over names "${flags.runIsOver}", but the migration is "${name}"` };
    }
    const asked = await askTemporal(flags.runIsOver, runsWithoutEnd(found), flags);
    if (asked.state === 'lives') return { ...asked, next: terminateFirst(flags.runIsOver) };
    if (sessions.length > 0) return heldBySessions(sessions);
    return { state: 'over', why: `--run-is-over says that "${flags.runIsOver}" is over` };
  }
  const ended = writtenDownEnd(found);
  const name = migration ?? planName;
  if (name === undefined) {
    return { state: 'unknown', why: 'no migration is known here whose workflow Temporal could be asked for' };
  }
  const asked = await askTemporal(name, runsWithoutEnd(found), flags);
  if (asked.state === 'lives' && isNobodySeen(found)) return { ...asked, unattended: true };
  if (asked.state !== 'over') {
    // The database's own word is enough: it is the last thing that a run writes.
    return asked.state === 'unknown' && ended !== undefined ? { state: 'over', why: ended } : asked;
  }
  if (!asked.known && ended === undefined) {
    if (sessions.length > 0)
      return { state: 'lives', why: `${asked.why}, but sessions of a worker are open (${listed(sessions)})` };
    // It may live in another namespace, on another server or under another id: the databases have heard of no end.
    if (migration !== undefined)
      return { state: 'unknown', why: `${asked.why}, but the databases belong to a run without an end` };
  }
  return { state: 'over', why: ended === undefined ? asked.why : `${ended}; ${asked.why}` };
}

/** `known`: it is the word on the very runs that the databases belong to. */
type Asked = Liveness & { readonly known: boolean };

async function askTemporal(name: string, owners: readonly string[], flags: ServerFlags): Promise<Asked> {
  const workflowId = workflowIdOf(name);
  try {
    return await withClient(flags, (client) =>
      client.withDeadline(Date.now() + ASK_TIMEOUT_MS, () => askClient(client, workflowId, owners)),
    );
  } catch (error) {
    return { state: 'unknown', known: false, why: `Temporal could not be asked: ${innermostMessage(error)}` };
  }
}

async function askClient(client: Client, workflowId: string, owners: readonly string[]): Promise<Asked> {
  const latest = await describeRun(client, workflowId);
  if (latest === undefined) {
    const why = `Temporal knows no workflow ${workflowId} in namespace ${client.options.namespace}`;
    return { state: 'over', known: false, why };
  }
  const why = `Temporal says that workflow ${workflowId} is ${latest.status.name}`;
  // Also when an earlier run owns the databases: after a reset its successor goes on for it.
  if (LIVING.has(latest.status.name)) return { state: 'lives', known: true, why };
  const ended = [latest.runId, latest.raw.workflowExecutionInfo?.firstRunId];
  for (const owner of owners) {
    // One run of an id lives at a time. So each that Temporal knows of is over, when the latest one is.
    if (ended.includes(owner) || (await describeRun(client, workflowId, owner)) !== undefined) continue;
    return { state: 'over', known: false, why: `${why}, which is another run than ${owner}` };
  }
  return { state: 'over', known: owners.length > 0, why };
}

/** Undefined where Temporal knows of no such run. */
async function describeRun(
  client: Client,
  workflowId: string,
  runId?: string,
): Promise<WorkflowExecutionDescription | undefined> {
  try {
    return await client.workflow.getHandle(workflowId, runId).describe();
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return undefined;
    throw error;
  }
}

/** Everything else is an end. A paused or continued workflow goes on. */
const LIVING: ReadonlySet<string> = new Set(['RUNNING', 'CONTINUED_AS_NEW', 'PAUSED', 'UNKNOWN', 'UNSPECIFIED']);

interface OpenSession {
  readonly side: Side;
  readonly pid: number;
  readonly purpose: string;
}

/** Whether no worker has a session where one would be seen: who reaches neither side sees none, and knows nothing. */
function isNobodySeen(found: Found): boolean {
  const isReached = [found.blue, found.green].some((one) => one.reached || one.standby !== undefined);
  return isReached && sessionsOfWorkers(found).length === 0;
}

function sessionsOfWorkers(found: Found): OpenSession[] {
  return (['blue', 'green'] as const).flatMap((side) => {
    const one = found[side];
    const sessions = one.reached ? one.inventory.sessions : (one.standby?.sessions ?? []);
    return sessions.map(({ pid, purpose }) => ({ side, pid, purpose }));
  });
}

function listed(sessions: readonly OpenSession[]): string {
  return sessions.map(({ side, pid, purpose }) => `${side} pid ${pid}: ${purpose}`).join(', ');
}

/** The person's word stands for a Temporal that is gone. */
function terminateFirst(name: string): string {
  return `stop its workers, and terminate it first: temporal workflow terminate --workflow-id ${workflowIdOf(name)}. --run-is-over is for a Temporal that can't say it`;
}

/**
 * A person has said that the run is over. Its worker may only be forgotten; or its machine is gone, and the servers, which
 * nobody has told, keep its sessions for as long as their keepalives take: two hours, where nothing else is set.
 */
function heldBySessions(sessions: readonly OpenSession[]): Liveness {
  const ends = (['blue', 'green'] as const).flatMap((side) => {
    const pids = sessions.filter((one) => one.side === side).map(({ pid }) => pid);
    if (pids.length === 0) return [];
    return [`on ${side}: SELECT ${pids.map((pid) => `pg_terminate_backend(${pid})`).join(', ')}`];
  });
  return {
    state: 'lives',
    unattended: true,
    why: `sessions of a worker, or of another command, are open (${listed(sessions)})`,
    next: `stop what has them; where its machine is gone, so that nothing else ends them, ${ends.join('; ')}. Then again`,
  };
}

/** The runs that the databases belong to, of which they know no end. As a rule it is one, or none. */
function runsWithoutEnd(found: Found): string[] {
  return ownersOf(found).flatMap(({ runId, outcome }) => (outcome === null ? [runId] : []));
}

/** What a run that ended in order has written down on every side that still knows it. */
function writtenDownEnd(found: Found): string | undefined {
  const owners = ownersOf(found);
  const [first] = owners;
  if (first === undefined || owners.some(({ outcome }) => outcome === null)) return undefined;
  return `run ${first.runId} has ended: ${first.outcome ?? ''}`;
}

function ownersOf(found: Found): OwnerFound[] {
  return (['blue', 'green'] as const).flatMap((side) => {
    const one = found[side];
    return one.reached && one.inventory.owner !== null ? [one.inventory.owner] : [];
  });
}
