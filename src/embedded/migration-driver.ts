import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import type { MigrationStatus, Phase } from '../../workflows/lib/status.js';
import type { MigrationCommands } from './commands.js';
import type { RollbackPhase } from './demo-options.js';
import { EmbeddedError } from './embedded-error.js';
import { run } from './run-program.js';
import { ownTemporalEnvironment } from './temporal-environment.js';

const POLL_MS = 200;
const CLI_TIMEOUT_MS = 30_000;

export interface DriverOptions {
  readonly commands: MigrationCommands;
  readonly planFile: string;
  readonly rollback: RollbackPhase | undefined;
  /** A rollback in the standby window is asked for once the application has written on green for so long. */
  readonly writesOnGreenMs: number;
  /** The run is given up after so long. */
  readonly deadlineMs: number;
  /** Called at each look; what it throws ends the drive. */
  readonly check: () => void;
  /** Told each state of the run. */
  readonly onStatus: (status: MigrationStatus) => Promise<void>;
  /** Told what the driver does in an engineer's place. */
  readonly onCommand: (what: string, args: readonly string[]) => void;
}

/** How the run ended. */
export interface Ended {
  readonly status: MigrationStatus;
  readonly historyEvents: number;
  readonly durationMs: number;
}

/**
 * Does what an engineer and an approver do, with the Temporal CLI: starts the workflow by type, task queue and input
 * file, answers what it waits for, asks for the rollback. Only looking (the query `status`) goes through the client, to
 * be quick enough for a short phase.
 */
export class MigrationDriver {
  #approvedAt = 0;
  #rollbackAsked = false;
  #standbySince: number | undefined;

  constructor(private readonly options: DriverOptions) {}

  async drive(): Promise<Ended> {
    const { commands, planFile, deadlineMs } = this.options;
    const connection = await Connection.connect({ address: commands.address });
    try {
      const handle = new Client({ connection }).workflow.getHandle(commands.workflowId);
      const since = performance.now();
      await this.#cli('start the migration', commands.start(planFile));
      const status = await this.#follow(handle, since + deadlineMs);
      const description = await handle.describe();
      const finishedAt = description.closeTime?.getTime() ?? Date.now();
      return {
        status,
        historyEvents: description.historyLength,
        durationMs: finishedAt - description.startTime.getTime(),
      };
    } finally {
      await connection.close();
    }
  }

  async #follow(handle: WorkflowHandle, deadline: number): Promise<MigrationStatus> {
    for (;;) {
      this.options.check();
      const status = await statusOf(handle);
      if (status !== undefined) {
        await this.options.onStatus(status);
        if (status.outcome !== 'running' && (await isClosed(handle))) return status;
        if (status.outcome === 'running') await this.#act(status);
      }
      if (performance.now() > deadline) {
        throw new EmbeddedError(
          `the run has not ended in time${status === undefined ? '; the worker does not answer' : `: ${status.now}${status.waiting === null ? '' : `, it waits: ${status.waiting.why}`}`}`,
          'run again with --keep, then look at the run in the Web UI and at the log of the worker',
        );
      }
      await sleep(POLL_MS);
    }
  }

  async #act(status: MigrationStatus): Promise<void> {
    if (status.phase === 'standby') this.#standbySince ??= performance.now();
    if (this.#isTimeToRollBack(status)) {
      this.#rollbackAsked = true;
      const reason = `asked for in the phase ${this.options.rollback ?? status.phase}`;
      await this.#message('rollback', { by: 'demo', reason });
    } else if (status.waiting?.for === 'approval' && !this.#rollbackAsked) {
      // The promotion may have to be approved again, when it could not get through.
      if (performance.now() - this.#approvedAt < 2_000) return;
      this.#approvedAt = performance.now();
      const { gate = 'promote', request } = status.waiting;
      await this.#message('approve', { gate, request, by: 'demo', reason: 'stages passed, nobody complains' });
    }
  }

  #isTimeToRollBack(status: MigrationStatus): boolean {
    const { rollback } = this.options;
    if (rollback === undefined || this.#rollbackAsked) return false;
    const isBefore = (phase: Phase): boolean => status.phase === phase && status.writesOn === 'blue';
    switch (rollback) {
      case 'promote':
        // Just before it: the answer to the question whether to promote.
        return status.waiting?.for === 'approval' && status.waiting.gate === 'promote';
      case 'standby':
        return (
          this.#standbySince !== undefined && performance.now() - this.#standbySince > this.options.writesOnGreenMs
        );
      case 'traffic':
        // Once some reads are on green, so that there is something to take back.
        return isBefore('traffic') && status.greenReadPercent > 0;
      case 'replicate':
      case 'migrate':
      case 'verify':
        return isBefore(rollback);
    }
  }

  /** An update is checked and answered; a signal works also while the worker is busy. */
  async #message(name: 'approve' | 'rollback', input: object): Promise<void> {
    const { commands } = this.options;
    try {
      await this.#cli(name, commands.update(name, input));
    } catch {
      await this.#cli(name, commands.signal(name, input));
    }
  }

  async #cli(what: string, args: readonly string[]): Promise<void> {
    this.options.onCommand(what, args);
    await run(this.options.commands.cliPath, args, CLI_TIMEOUT_MS, ownTemporalEnvironment());
  }
}

/** The answer of the query; undefined while no worker answers. */
async function statusOf(handle: WorkflowHandle): Promise<MigrationStatus | undefined> {
  try {
    return await handle.query<MigrationStatus>('status');
  } catch {
    return undefined;
  }
}

async function isClosed(handle: WorkflowHandle): Promise<boolean> {
  return (await handle.describe()).status.name !== 'RUNNING';
}
