import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import ts from 'typescript';
import { occurrences, type Mutation, type TestOf } from './mutation.js';

/** What a run of a test has shown. */
export interface TestRun {
  readonly passed: number;
  readonly failed: number;
  /** The first failure; or why no test was run. */
  readonly why: string;
}

/** A test that hangs has noticed, too. */
const LONGEST_RUN_MS = 240_000;

const NOT_COPIED = new Set(['.git', '.cache', 'node_modules', 'dist', 'coverage']);

/** A copy of the project in which one rule at a time is taken out. */
export class Workbench {
  private constructor(readonly root: string) {}

  static create(project: string): Workbench {
    const root = mkdtempSync(join(tmpdir(), 'verdigris-mutations-'));
    for (const entry of readdirSync(project)) {
      if (!NOT_COPIED.has(entry)) cpSync(join(project, entry), join(root, entry), { recursive: true });
    }
    symlinkSync(join(project, 'node_modules'), join(root, 'node_modules'));
    return new Workbench(root);
  }

  /** Runs `work` while the rule is out. Throws when the mutant is no program: a test that can't load it proves nothing. */
  async without<T>(mutation: Mutation, work: () => Promise<T>): Promise<T> {
    const originals = new Map<string, string>();
    try {
      for (const edit of mutation.edits) {
        const found = occurrences(this.root, edit);
        if (found !== 1) throw new Error(`the text to be replaced is ${found} times in ${edit.file}`);
        const path = join(this.root, edit.file);
        const before = readFileSync(path, 'utf8');
        if (!originals.has(path)) originals.set(path, before);
        const after = before.replace(edit.find, () => edit.replace);
        refuseBrokenSyntax(edit.file, after);
        writeFileSync(path, after);
      }
      return await work();
    } finally {
      for (const [path, text] of originals) writeFileSync(path, text);
    }
  }

  async run({ file, name }: TestOf, environment: Readonly<Record<string, string>>): Promise<TestRun> {
    const report = join(this.root, 'mutation-report.json');
    rmSync(report, { force: true });
    const suite = /\.(faults|long)\.ts$/.exec(file)?.[1];
    const config = suite === undefined ? 'vitest.config.ts' : `vitest.${suite}.config.ts`;
    const child = spawn(
      process.execPath,
      [
        ...['node_modules/vitest/vitest.mjs', 'run', file, '--config', config, '-t', name],
        ...['--bail', '1', '--reporter', 'json', '--outputFile', report],
      ],
      { cwd: this.root, stdio: 'ignore', detached: true, env: { ...process.env, ...environment } },
    );
    const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
    const isSlow = await Promise.race([ended.then(() => false), after(LONGEST_RUN_MS)]);
    if (isSlow) signalGroup(child.pid, 'SIGTERM');
    await ended;
    // A test that fails can leave a process that it had frozen.
    signalGroup(child.pid, 'SIGKILL');
    if (!isSlow) return readReport(report);
    return { passed: 0, failed: 1, why: `not at an end after ${LONGEST_RUN_MS / 1_000} s` };
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

/** Whoever is still there of a process that began its own group, and of those that it started in it. */
function signalGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  try {
    if (pid !== undefined) process.kill(-pid, signal);
  } catch {
    // Nobody is.
  }
}

function after(ms: number): Promise<true> {
  return new Promise((resolve) => setTimeout(() => resolve(true), ms).unref());
}

function refuseBrokenSyntax(file: string, text: string): void {
  const { diagnostics } = ts.transpileModule(text, { reportDiagnostics: true, fileName: file });
  const [first] = diagnostics ?? [];
  if (first !== undefined) throw new Error(`${file}: ${ts.flattenDiagnosticMessageText(first.messageText, ' ')}`);
}

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numFailedTestSuites: number;
  readonly testResults: readonly {
    readonly message: string;
    readonly assertionResults: readonly { readonly failureMessages: readonly string[] | null }[];
  }[];
}

function readReport(path: string): TestRun {
  let report: Report;
  try {
    report = JSON.parse(readFileSync(path, 'utf8')) as Report;
  } catch {
    return { passed: 0, failed: 0, why: 'vitest has written no report' };
  }
  const failures = report.testResults.flatMap(({ message, assertionResults }) => [
    ...assertionResults.flatMap(({ failureMessages }) => failureMessages ?? []),
    message,
  ]);
  return {
    passed: report.numPassedTests,
    // A set-up that fails has run no test, but it has noticed.
    failed: Math.max(report.numFailedTests, Math.min(1, report.numFailedTestSuites)),
    why: failures.find((text) => text !== '')?.split('\n')[0] ?? '',
  };
}
