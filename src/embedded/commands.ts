import { basename } from 'node:path';
import { TASK_QUEUE, WORKFLOW_TYPE } from '../workflow-names.js';
import { temporalOnPath } from './temporal-cli.js';

/** Arguments of the Temporal CLI for one migration; what the demo runs and what `npm run dev` prints. */
export class MigrationCommands {
  readonly workflowId: string;

  constructor(
    readonly cliPath: string,
    readonly address: string,
    migration: string,
  ) {
    this.workflowId = `verdigris/${migration}`;
  }

  start(planFile: string): string[] {
    return [
      ...['workflow', 'start', '--address', this.address, '--type', WORKFLOW_TYPE, '--task-queue', TASK_QUEUE],
      ...['--workflow-id', this.workflowId, '--id-conflict-policy', 'Fail', '--input-file', planFile],
    ];
  }

  query(type: string): string[] {
    return [...this.#of('query'), '--type', type];
  }

  signal(name: string, input: object): string[] {
    return [...this.#of('signal'), '--name', name, '--input', JSON.stringify(input)];
  }

  update(name: string, input: object): string[] {
    return [...this.#of('update', 'execute'), '--name', name, '--input', JSON.stringify(input)];
  }

  /** The command line as a person types it. */
  print(args: readonly string[]): string {
    const program = temporalOnPath() === this.cliPath ? basename(this.cliPath) : this.cliPath;
    return [program, ...args].map(shellWord).join(' ');
  }

  #of(...command: string[]): string[] {
    return ['workflow', ...command, '--address', this.address, '--workflow-id', this.workflowId];
  }
}

function shellWord(word: string): string {
  return /^[A-Za-z0-9_./:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
