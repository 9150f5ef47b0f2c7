import { createHash } from 'node:crypto';
import { accessSync, constants, mkdirSync, readdirSync, renameSync, rmSync, statSync, utimesSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import esbuild from 'esbuild';

/*
 * What src/worker/from-source.js runs: the TypeScript of a checkout as JavaScript, in a folder below `.cache` that is
 * named after the state of the sources. It prints that folder, or nothing where none can be made: the checkout may be
 * read-only, or another user's. Workers that begin at the same time each make one, and the first is everybody's; a folder
 * that no worker has asked for in a week is removed. Ends with 1 where a source does not compile.
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

if (isReadable(target)) {
  const now = new Date();
  tidy(() => utimesSync(target, now, now));
} else {
  await make();
}
if (isReadable(target)) {
  tidy(sweep);
  console.log(target);
}

async function make() {
  const unfinished = `${target}.${process.pid}`;
  try {
    // esbuild would not say why it can't be made.
    mkdirSync(unfinished, { recursive: true });
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
    if (isOfSource(error)) throw error;
    // Another one may have been quicker: its folder has the same files.
    if (!isReadable(target)) console.error(`${error.message}: the worker is compiled as it is loaded`);
  } finally {
    tidy(() => rmSync(unfinished, { recursive: true, force: true }));
  }
}

/** Whether esbuild names the line that is wrong: a disk that is full has none. */
function isOfSource(error) {
  return error.errors?.some(({ location }) => location !== null) === true;
}

/** A folder that is there is whole, but another user may have made it for himself. */
function isReadable(folder) {
  try {
    accessSync(join(folder, 'src/worker/main.js'), constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

function sweep() {
  for (const name of readdirSync(cache)) {
    const folder = join(cache, name);
    if (folder === target) continue;
    tidy(() => {
      const age = Date.now() - (statSync(folder, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
      if (age > WEEK_MS) rmSync(folder, { recursive: true, force: true });
    });
  }
}

/** What only tidies up ends no worker: the folder may be another user's, and the disk read-only by now. */
function tidy(work) {
  try {
    work();
  } catch {
    // The next worker tries it again.
  }
}
