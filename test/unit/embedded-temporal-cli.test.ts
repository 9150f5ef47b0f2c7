import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  findTemporalCli,
  TEMPORAL_CLI_VARIABLE,
  TEMPORAL_CLI_VERSION,
  WAYS_TO_INSTALL,
} from '../../src/embedded/temporal-cli.js';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'verdigris-test-cli-'));
  vi.stubEnv(TEMPORAL_CLI_VARIABLE, '');
  vi.stubEnv('PATH', '/nonexistent');
  vi.stubEnv('XDG_CACHE_HOME', join(folder, 'cache'));
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
});

describe('the Temporal CLI is taken from', () => {
  it('the environment variable first, then PATH, then the cache', async () => {
    const cached = program(join('cache', 'verdigris', `temporal-cli-${TEMPORAL_CLI_VERSION}`), 'temporal');
    expect(await findTemporalCli()).toBe(cached);

    const onPath = program('bin', 'temporal');
    vi.stubEnv('PATH', `/nonexistent:${join(folder, 'bin')}`);
    expect(await findTemporalCli()).toBe(onPath);

    const named = program('elsewhere', 'my-temporal');
    vi.stubEnv(TEMPORAL_CLI_VARIABLE, named);
    expect(await findTemporalCli()).toBe(named);
  });

  it('nowhere else when the variable names no program: it is an error, not another version', async () => {
    program('bin', 'temporal');
    vi.stubEnv('PATH', join(folder, 'bin'));
    vi.stubEnv(TEMPORAL_CLI_VARIABLE, join(folder, 'missing'));
    await expect(findTemporalCli()).rejects.toThrow(
      /VERDIGRIS_TEMPORAL_CLI names no program.*\n.*correct the variable/,
    );
  });

  it('PATH only where it can be run', async () => {
    const text = program('bin', 'temporal');
    chmodSync(text, 0o644);
    vi.stubEnv('PATH', join(folder, 'bin'));
    const cached = program(join('cache', 'verdigris', `temporal-cli-${TEMPORAL_CLI_VERSION}`), 'temporal');
    expect(await findTemporalCli()).toBe(cached);
  });
});

it('the ways to install the Temporal CLI name the version that is tested, and no other', () => {
  expect(WAYS_TO_INSTALL.match(/\b\d+\.\d+\.\d+\b|(?<=@v)[\d.]+/g)).toEqual([
    TEMPORAL_CLI_VERSION,
    TEMPORAL_CLI_VERSION,
  ]);
});

function program(under: string, name: string): string {
  mkdirSync(join(folder, under), { recursive: true });
  const path = join(folder, under, name);
  writeFileSync(path, '#!/bin/sh\n', { mode: 0o755 });
  return path;
}
