import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { styleText } from 'node:util';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { parseDuration } from '../plan/duration.js';
import { MigrationCommands } from './commands.js';
import { demoOptions, type DemoOptions } from './demo-options.js';
import { shortPlan } from './demo-plan.js';
import { brokenPromises, demoResult, resultTable, type DemoResult } from './demo-result.js';
import { EmbeddedError } from './embedded-error.js';
import { startEnvironment, type Environment } from './environment.js';
import { Interrupted, LifeCycle } from './life-cycle.js';
import { lastLines } from './last-lines.js';
import { LiveView } from './live-view.js';
import { MigrationDriver, type Ended } from './migration-driver.js';
import type { Window } from './shop/measurements.js';

/*
 * `npm run demo`: a whole migration of the seed's plan under live load, driven as an engineer would, and the results as
 * the application measured them. Exit code 1 when a promise was broken.
 */

/** The load alone, to compare with; its first seconds warm it up. */
const BEFORE_MS = 6_000;
/** Unless the command line says another one. */
const RATE = 1_000;
/** Fewer requests prove nothing to the gates in a few seconds. */
const LEAST_RATE = 125;
/** The application alone must leave so much to two servers more, to the copy, and to everything that compares. */
const LEAST_IDLE = 0.5;
const LONGEST_WRITE_ALONE_MS = 250;
/** Load after the end of the run, on the side that serves then. */
const AFTER_MS = 3_000;

const options = demoOptions(process.argv);
const say = (line: string): void => console.log(line);
const lifeCycle = new LifeCycle(say);
let finish: () => void = () => undefined;
const asked = new Promise<void>((resolve) => (finish = resolve));
lifeCycle.onSignal(() => {
  say('\nStopping everything (Ctrl-C again: at once) ...');
  void lifeCycle.stop().then(finish);
});

try {
  process.exit(await demo());
} catch (error) {
  const interrupted = error instanceof Interrupted || lifeCycle.ending;
  if (!interrupted) console.error(error instanceof EmbeddedError ? error.message : error);
  if (!interrupted && options.keep === true) await keep();
  await lifeCycle.stop();
  process.exit(interrupted ? 130 : 1);
}

async function demo(): Promise<number> {
  const rate = options.rate ?? RATE;
  const plan = shortPlan({ ...options, rate });
  const environment = await startEnvironment(lifeCycle, { plan, rows: options.rows, rate }, say);
  const commands = new MigrationCommands(environment.cliPath, environment.temporal.address, plan.name);
  const webUi = `${environment.temporal.uiUrl ?? ''}/namespaces/default/workflows/${encodeURIComponent(commands.workflowId)}`;
  say(`\nWeb UI: ${webUi}\nMeasuring the application alone for ${BEFORE_MS / 1_000} s ...`);
  if (options.rate === undefined) await findRate(environment);
  else await sleep(BEFORE_MS);

  const ended = await migrate(environment, commands);
  await sleep(AFTER_MS);
  const result = await measure(environment, ended);
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(result, null, 2)}\n`);
  say(`\n${resultTable(result, webUi)}`);

  const broken = brokenPromises(result, options.rollback === undefined ? 'completed' : 'rolledBack');
  for (const sentence of broken) say(styleText('red', `✗ ${sentence}`));
  if (options.keep === true) await keep();
  await lifeCycle.stop();
  return broken.length === 0 ? 0 : 1;
}

/** Halves the load until this machine has room for a migration beside it: what is shown is no overload. */
async function findRate({ shop, planFile }: Environment): Promise<void> {
  for (let rate = RATE; ;) {
    await sleep(BEFORE_MS / 2);
    const [since, before] = [Date.now(), cpuTimes()];
    await sleep(BEFORE_MS / 2);
    const after = cpuTimes();
    const idle = (after.idle - before.idle) / Math.max(1, after.all - before.all);
    const longest = await shop.ask({ ask: 'longestWrite', from: since, to: Date.now() });
    if ((idle >= LEAST_IDLE && longest <= LONGEST_WRITE_ALONE_MS) || rate / 2 < LEAST_RATE) return;
    rate /= 2;
    say(
      `The application alone leaves ${Math.round(idle * 100)} % of this machine, and waits up to ${Math.round(longest)} ms for a write: ${rate} requests a second`,
    );
    await shop.ask({ ask: 'rate', rate });
    writeFileSync(planFile, `${JSON.stringify(shortPlan({ ...options, rate }), null, 2)}\n`);
  }
}

/** Of all processors since the machine was started. */
function cpuTimes(): { readonly idle: number; readonly all: number } {
  const times = cpus().map(({ times: { user, nice, sys, idle, irq } }) => ({
    idle,
    all: user + nice + sys + idle + irq,
  }));
  const sum = (of: (one: (typeof times)[number]) => number): number => times.reduce((total, one) => total + of(one), 0);
  return { idle: sum(({ idle }) => idle), all: sum(({ all }) => all) };
}

/** Until Ctrl-C, which stops everything first. */
async function keep(): Promise<void> {
  say('\nEverything is left running; Ctrl-C stops it and removes its data.');
  await asked;
}

async function migrate(environment: Environment, commands: MigrationCommands): Promise<Ended> {
  const { shop } = environment;
  const view = new LiveView({
    isTTY: process.stdout.isTTY,
    columns: process.stdout.columns,
    write: (text) => void process.stdout.write(text),
  });
  let window: Window = 'before';
  const driver = new MigrationDriver({
    commands,
    planFile: environment.planFile,
    rollback: options.rollback,
    writesOnGreenMs: Math.min(3_000, parseDuration(options.standby) / 2),
    deadlineMs: deadlineMs(options),
    onCommand: (what, args) => view.note(`${styleText('cyan', '$')} ${commands.print(args)}   # ${what}`),
    check: () => {
      if (environment.worker.isRunning()) return;
      throw new EmbeddedError(`the worker has ended:\n${lastLines(environment.logs.worker)}`, 'see the lines above');
    },
    onStatus: async (status) => {
      const next = windowOf(status);
      if (next !== window) await shop.ask({ ask: 'window', window: (window = next) });
      view.update(status, await shop.ask({ ask: 'statistics' }));
    },
  });
  try {
    return await driver.drive();
  } finally {
    view.finish();
  }
}

/** After the last switch of traffic: the promotion, or the way back. */
function windowOf(status: MigrationStatus): Window {
  if (status.rollingBack !== null) return status.rollingBack.finishedAt === null ? 'during' : 'after';
  return status.writesOn === 'green' ? 'after' : 'during';
}

async function measure(environment: Environment, ended: Ended): Promise<DemoResult> {
  const { shop } = environment;
  const { status } = ended;
  const held: number[] = [];
  for (const [from, to] of switchesOfWrites(status)) held.push(await shop.ask({ ask: 'longestWrite', from, to }));
  const audit = await shop.ask({ ask: 'audit' });
  const statistics = await shop.ask({ ask: 'statistics' });
  return demoResult({
    status,
    statistics,
    audit,
    maxWriteHoldMs: Math.max(0, ...held),
    historyEvents: ended.historyEvents,
    migrationMs: ended.durationMs,
  });
}

/** The moments in which writes went from one side to the other, with the seconds around them. */
function switchesOfWrites(status: MigrationStatus): (readonly [from: number, to: number])[] {
  if (status.promotion === null) return [];
  const promoted = Date.parse(status.promotion.at);
  const switches: (readonly [number, number])[] = [[promoted - 2_000, promoted + 2_000]];
  if (status.rollingBack !== null) {
    const { startedAt, finishedAt } = status.rollingBack;
    switches.push([Date.parse(startedAt), finishedAt === null ? Date.now() : Date.parse(finishedAt)]);
  }
  return switches;
}

function deadlineMs({ stage, standby }: DemoOptions): number {
  return 5 * 60_000 + 4 * parseDuration(stage) + parseDuration(standby);
}
