import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import ts from 'typescript';
import type * as router from '../src/router/index.js';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');

/**
 * The router as a package has it: compiled by TypeScript. tsx, which runs the benchmark, wraps every function that has
 * a name, each time that it is made, and that would be measured too.
 */
export async function compiledRouter(): Promise<typeof router> {
  const target = join(ROOT, '.cache', `bench-router-${process.pid}`);
  try {
    const files = await readdir(join(ROOT, 'src'), { recursive: true });
    for (const file of files.filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))) {
      const { outputText } = ts.transpileModule(await readFile(join(ROOT, 'src', file), 'utf8'), {
        compilerOptions: { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext, verbatimModuleSyntax: true },
      });
      const compiled = join(target, file.replace(/\.ts$/, '.js'));
      await mkdir(dirname(compiled), { recursive: true });
      await writeFile(compiled, outputText);
    }
    await writeFile(join(target, 'package.json'), '{ "type": "module" }');
    const module: unknown = await import(pathToFileURL(join(target, 'router', 'index.js')).href);
    return module as typeof router;
  } finally {
    await rm(target, { recursive: true, force: true });
  }
}
