import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, utimesSync } from 'node:fs';
import { cp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

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
  const compile = async (): Promise<string> => {
    const { stdout } = await run(process.execPath, [join(checkout, 'src/worker/compile.js')]);
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
});
