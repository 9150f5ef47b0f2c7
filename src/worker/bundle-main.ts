import { bundleWorkflows } from './bundle-workflows.js';

/* Writes the bundle of the workflow code to standard output; nothing else may be written there. */

bundleWorkflows().then(
  ({ code }) => {
    process.stdout.write(code);
  },
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    process.exitCode = 1;
  },
);
