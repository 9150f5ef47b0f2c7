import { styleText } from 'node:util';
import { fileURLToPath } from 'node:url';
import { MigrationCommands } from './commands.js';
import { SEED_PLAN, shortPlan } from './demo-plan.js';
import { devOptions } from './demo-options.js';
import { EmbeddedError } from './embedded-error.js';
import { startEnvironment, type Environment } from './environment.js';
import { Interrupted, LifeCycle } from './life-cycle.js';

/*
 * `npm run dev`: Temporal with its Web UI, blue and green, a worker and the shop under live load, until Ctrl-C. What
 * happens then is up to whoever reads the commands that it prints.
 */

const options = devOptions(process.argv);

const say = (line: string): void => console.log(line);
const lifeCycle = new LifeCycle(say);
let finish: () => void = () => undefined;
const asked = new Promise<void>((resolve) => (finish = resolve));
lifeCycle.onSignal(() => {
  say('\nStopping everything (Ctrl-C again: at once) ...');
  finish();
  void lifeCycle.stop();
});

try {
  const plan = shortPlan({ stage: options.stage, standby: options.standby, rate: options.rate });
  const environment = await startEnvironment(lifeCycle, { plan, rows: options.rows, rate: options.rate }, say);
  say(welcome(environment, plan.name));
  await asked;
  await lifeCycle.stop();
  say('Everything is stopped and removed.');
  process.exit(0);
} catch (error) {
  // What fails because it was stopped while it was starting is no failure.
  const interrupted = error instanceof Interrupted || lifeCycle.ending;
  await lifeCycle.stop();
  if (interrupted) process.exit(0);
  console.error(error instanceof EmbeddedError ? error.message : error);
  process.exit(1);
}

function welcome(environment: Environment, migration: string): string {
  const { cliPath, temporal, shop, planFile, logs } = environment;
  const commands = new MigrationCommands(cliPath, temporal.address, migration);
  const approval = { gate: 'promote', by: 'you@example.com', reason: 'all stages passed' };
  const rollback = { by: 'you@example.com', reason: 'to see that it works' };
  const entries: readonly (readonly [string, string])[] = [
    ['Start the migration', commands.print(commands.start(planFile))],
    ['What does it do, why does it wait?', commands.print(commands.query('status'))],
    ['Approve the promotion (when it waits for it)', commands.print(commands.signal('approve', approval))],
    ['The same with an answer', commands.print(commands.update('approve', approval))],
    [
      'Roll back, at any time until the end of the standby window',
      commands.print(commands.update('rollback', rollback)),
    ],
    ['The evidence of the gates', commands.print(commands.query('evidence'))],
  ];
  return `
${entries.map(([what, command]) => `${styleText('bold', what)}\n  ${command}`).join('\n')}

Web UI            ${temporal.uiUrl ?? ''}/namespaces/default/workflows
Shop              http://127.0.0.1:${shop.port}/status and /metrics
Plan              ${planFile}
                  (${fileURLToPath(SEED_PLAN)} is the same with stages of 15 min and 48 h of standby)
Logs              ${logs.worker}
                  ${logs.shop}

Ctrl-C stops everything and removes its data.
`;
}
