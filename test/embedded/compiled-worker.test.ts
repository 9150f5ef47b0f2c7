import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, utimesSync } from 'node:fs';
import { chmod, cp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { isNobodyServed, NOBODY } from '../support/nobody.js';

const run = promisify(execFile);
const HERE = fileURLToPath(new URL('../..', import.meta.url));

describe('a worker from a checkout', () => {
  let checkout = '';

  beforeAll(async () => {
    checkout = mkdtempSync(join(tmpdir(), 'verdigris-checkout-'));
    for (const name of ['src/worker', 'workflows', 'activities', 'package.json']) {
      await cp(join(HERE, name), join(checkout, name), { recursive: true });
    }
    await symlink(join(HERE, 'node_modules'), join(checkout, 'node_modules'));
  });
  afterAll(() => rm(checkout, { recursive: true, force: true }));

  /** The folder with the JavaScript. */
  const compile = async (as = {}): Promise<string> => {
    const { stdout } = await run(process.execPath, [join(checkout, 'src/worker/compile.js')], as);
    return stdout.trim();
  };
  const compiled = (): string[] => readdirSync(join(checkout, '.cache', 'worker'));

  it('is compiled once, whoever begins at the same time', async () => {
    const folders = await Promise.all([compile(), compile(), compile()]);
    expect(new Set(folders).size).toBe(1);
    expect(compiled()).toHaveLength(1);
    const folder = folders[0] ?? '';
    expect(dirname(folder)).toBe(join(checkout, '.cache', 'worker'));
    for (const file of ['src/worker/main.js', 'src/worker/bundle-main.js', 'workflows/index.js']) {
      expect(existsSync(join(folder, file)), file).toBe(true);
    }
  });

  it('is compiled anew when a source has changed, and what nobody asked for in a week is removed', async () => {
    const before = await compile();
    await writeFile(join(checkout, 'src/worker/added.ts'), 'export const added: number = 7;\n');
    const after = await compile();
    expect(after).not.toBe(before);
    expect(await readFile(join(after, 'src/worker/added.js'), 'utf8')).toBe(
      'const added = 7;\nexport {\n  added\n};\n',
    );

    const longAgo = new Date(Date.now() - 8 * 24 * 3_600_000);
    utimesSync(before, longAgo, longAgo);
    expect(await compile()).toBe(after);
    expect(compiled()).toEqual([after.split('/').at(-1)]);
  });

  it('names the line that does not compile, and leaves nothing', async () => {
    const broken = join(checkout, 'src/worker/broken.ts');
    await writeFile(broken, 'export const = 7;\n');
    try {
      const before = compiled();
      await expect(run(process.execPath, [join(checkout, 'src/worker/from-source.js')])).rejects.toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/broken\.ts:1:13[\s\S]*its source could not be compiled/),
      });
      expect(compiled()).toEqual(before);
    } finally {
      await rm(broken);
    }
  });

  describe.skipIf(!isNobodyServed)('that this user may not write', () => {
    beforeAll(() => chmod(checkout, 0o555));
    afterAll(() => chmod(checkout, 0o755));

    it.skipIf(process.getuid?.() !== 0)('is served from what another user has compiled', async () => {
      const folder = await compile();
      const old = join(checkout, '.cache/worker/old');
      mkdirSync(old);
      const longAgo = new Date(Date.now() - 8 * 24 * 3_600_000);
      for (const one of [old, folder]) utimesSync(one, longAgo, longAgo);
      expect(await compile(NOBODY)).toBe(folder);
      // A folder that both may write: what is asked for is not swept, whoever has made it.
      await run('chmod', ['-R', 'a+w', join(checkout, '.cache')]);
      expect(await compile(NOBODY)).toBe(folder);
      expect(existsSync(join(folder, 'src/worker/main.js'))).toBe(true);
    });

    it('is not compiled beforehand where there is no place for it, nor is what the user may not read', async () => {
      await chmod(checkout, 0o755);
      await rm(join(checkout, '.cache'), { recursive: true });
      await chmod(checkout, 0o555);
      const bare = await run(process.execPath, [join(checkout, 'src/worker/compile.js')], NOBODY);
      expect(bare).toEqual({ stdout: '', stderr: expect.stringMatching(/^EACCES: .*\.cache/) });
      if (process.getuid?.() !== 0) return;
      const folder = await compile();
      await chmod(folder, 0o700);
      expect(await compile(NOBODY)).toBe('');
      expect(await compile()).toBe(folder);
    });
  });

  it('says what is missing where only what a compiled worker needs is installed', async () => {
    await rm(join(checkout, 'node_modules'));
    await expect(run(process.execPath, [join(checkout, 'src/worker/from-source.js')])).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('worker failed: esbuild is not installed. Next step: npm ci'),
    });
  });
});
