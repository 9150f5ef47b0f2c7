/** Where a command writes: results to `out`, everything that is said to people beside them to `note`. */
export interface Terminal {
  readonly out: (text: string) => void;
  readonly note: (text: string) => void;
  /** Whether nobody reads `out` any more, as after `| head`. Default: somebody does. */
  readonly isClosed?: () => boolean;
}

/** The terminal of this process. What it does goes on to its end when nobody reads what it says: a command may act. */
export function processTerminal(): Terminal {
  let closed = false;
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
      if (stream === process.stdout) closed = true;
    });
  }
  return {
    out: (text) => void (closed || process.stdout.write(`${text}\n`)),
    note: (text) => process.stderr.write(`${text}\n`),
    isClosed: () => closed,
  };
}

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
