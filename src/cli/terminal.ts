/** Where a command writes: results to `out`, everything that is said to people beside them to `note`. */
export interface Terminal {
  readonly out: (text: string) => void;
  readonly note: (text: string) => void;
}

export const PROCESS_TERMINAL: Terminal = {
  out: (text) => process.stdout.write(`${text}\n`),
  note: (text) => process.stderr.write(`${text}\n`),
};

/** How a command ends: 0 done, 1 refused or failed, 2 not understood or not reached. */
export const EXIT = { done: 0, refused: 1, unusable: 2 } as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** An error that a command tells in full, without a stack: what happened, and the next step. */
export class CommandError extends Error {
  override readonly name = 'CommandError';

  constructor(
    message: string,
    readonly nextStep: string,
    readonly exitCode: ExitCode = EXIT.unusable,
    cause?: unknown,
  ) {
    super(message, { cause });
  }
}
