import { createHash } from 'node:crypto';
import { existsSync, readdirSync, renameSync, rmSync, statSync, utimesSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import esbuild from 'esbuild';

/*
 * What src/worker/from-source.js runs: the TypeScript of a checkout as JavaScript, in a folder below `.cache` that is
 * named after the state of the sources. It prints that folder. Workers that begin at the same time each make one, and
 * the first is everybody's; a folder that no worker has asked for in a week is removed.
 *
 *   node src/worker/compile.js [CHECKOUT]
 */

const WEEK_MS = 7 * 24 * 3_600_000;
const root = process.argv[2] ?? fileURLToPath(new URL('../..', import.meta.url));
const cache = join(root, '.cache', 'worker');

const sources = ['src', 'workflows', 'activities'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts') && !entry.name.endsWith('.d.ts'))
    .map((entry) => join(entry.parentPath, entry.name)),
);
const state = createHash('sha256').update(esbuild.version);
for (const file of sources.sort()) {
  const { size, mtimeMs } = statSync(file);
  state.update(`${relative(root, file)} ${size} ${mtimeMs}\n`);
}
const target = join(cache, state.digest('hex').slice(0, 32));

if (existsSync(target)) {
  const now = new Date();
  utimesSync(target, now, now);
} else {
  const unfinished = `${target}.${process.pid}`;
  try {
    await esbuild.build({
      entryPoints: sources,
      outdir: unfinished,
      outbase: root,
      format: 'esm',
      target: 'node20',
      logLevel: 'warning',
      // The folder lies in the checkout: its package.json and node_modules count for it, its tsconfig.json need not.
      tsconfigRaw: { compilerOptions: { verbatimModuleSyntax: true } },
    });
    renameSync(unfinished, target);
  } catch (error) {
    // Another one was quicker: its folder has the same files.
    if (!existsSync(target)) throw error;
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
  }
}
for (const name of readdirSync(cache)) {
  const folder = join(cache, name);
  const age = Date.now() - (statSync(folder, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
  if (age > WEEK_MS) rmSync(folder, { recursive: true, force: true });
}
console.log(target);
