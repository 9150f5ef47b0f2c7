import { fileURLToPath } from 'node:url';
import { MUTATIONS } from './list.js';
import type { Mutation, TestOf } from './mutation.js';
import { SharedServers } from './servers.js';
import { Workbench, type TestRun } from './workbench.js';

/*
 * `npm run test:mutations [-- word ...]`: takes each rule out of a copy of the code and demands that its test fails
 * there, and passes where nothing was taken out. With words: only rules, files and tests that contain one of them.
 */

interface Outcome {
  readonly mutation: Mutation;
  readonly verdict: 'killed' | 'SURVIVED' | 'ERROR';
  readonly seconds: number;
  readonly why: string;
}

const words = process.argv.slice(2).map((word) => word.toLowerCase());
const chosen = MUTATIONS.filter(({ rule, edits, test }) => {
  const text = [rule, test.file, test.name, ...edits.map(({ file }) => file)].join(' ').toLowerCase();
  return words.length === 0 || words.some((word) => text.includes(word));
});

const bench = Workbench.create(fileURLToPath(new URL('../..', import.meta.url)));
const servers = new SharedServers();
const healthy = new Map<string, Promise<TestRun>>();
const outcomes: Outcome[] = [];
const begun = performance.now();
try {
  for (const mutation of chosen) {
    const outcome = await judge(mutation);
    outcomes.push(outcome);
    say(line(outcome));
  }
} finally {
  bench.remove();
  await servers.stop();
}
const bad = outcomes.filter(({ verdict }) => verdict !== 'killed');
const minutes = ((performance.now() - begun) / 60_000).toFixed(1);
say(
  `\n${outcomes.length - bad.length} of ${outcomes.length} rules are noticed when they are gone (${minutes} minutes)`,
);
for (const { mutation, verdict, why } of bad) say(`${verdict}: ${mutation.rule}\n  ${mutation.test.file}: ${why}`);
process.exitCode = bad.length === 0 && outcomes.length > 0 ? 0 : 1;

async function judge(mutation: Mutation): Promise<Outcome> {
  const started = performance.now();
  const outcome = (verdict: Outcome['verdict'], why: string): Outcome => ({
    ...{ mutation, verdict, why },
    seconds: (performance.now() - started) / 1_000,
  });
  try {
    const before = await unchanged(mutation.test);
    if (before.failed > 0) return outcome('ERROR', `fails although nothing was taken out: ${before.why}`);
    if (before.passed === 0) return outcome('ERROR', `no test of that name has run. ${before.why}`);
    const without = await bench.without(mutation, () => runTest(mutation.test));
    if (without.failed > 0) return outcome('killed', without.why);
    return outcome(without.passed > 0 ? 'SURVIVED' : 'ERROR', without.why);
  } catch (error) {
    return outcome('ERROR', error instanceof Error ? error.message : String(error));
  }
}

/** The same test on the code as it is: once, however many rules it stands for. */
function unchanged(test: TestOf): Promise<TestRun> {
  const key = JSON.stringify(test);
  const known = healthy.get(key) ?? runTest(test);
  healthy.set(key, known);
  return known;
}

async function runTest(test: TestOf): Promise<TestRun> {
  const run = await bench.run(test, await servers.environment());
  await servers.freshen();
  return run;
}

function line({ mutation, verdict, seconds, why }: Outcome): string {
  const { rule, test } = mutation;
  return `${verdict.padEnd(8)} ${seconds.toFixed(1).padStart(6)} s  ${rule}\n${' '.repeat(19)}${test.file.replace(/^test\//, '')}: ${why.slice(0, 160)}`;
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
