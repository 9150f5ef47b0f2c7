import { CommanderError } from 'commander';
import { program } from './program.js';
import type { ExitCode, Terminal } from './terminal.js';
import { CommandError, EXIT } from './terminal.js';

/** Runs one command line and says how it ended. Errors are told to the terminal, never thrown. */
export async function run(args: readonly string[], terminal: Terminal): Promise<ExitCode> {
  let code: ExitCode = EXIT.done;
  try {
    await program(terminal, (ended) => (code = ended)).parseAsync([...args], { from: 'user' });
    return code;
  } catch (error) {
    // Commander has said what it had to say: help and version end well, a wrong command line does not.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.unusable;
    if (error instanceof CommandError) {
      terminal.note(`error: ${error.message}\nnext step: ${error.nextStep}`);
      return error.exitCode;
    }
    terminal.note(`error: ${error instanceof Error ? error.message : String(error)}`);
    return EXIT.unusable;
  }
}
