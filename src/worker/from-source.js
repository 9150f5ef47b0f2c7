import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/*
 * `npm run worker` in a checkout. The TypeScript is compiled in a process that ends (compile.js), and this one is the
 * worker then: a loader that compiles files as they are imported would stay in its memory for good. Where what is
 * compiled can't be kept, it does.
 */

const NOT_COMPILED = 'its source could not be compiled, see the lines above';
const NOT_INSTALLED =
  'esbuild is not installed. Next step: npm ci without --omit=dev; or npm run build where it is, and node dist/src/worker/main.js';

const compile = fileURLToPath(new URL('./compile.js', import.meta.url));
const { status, stdout, error } = spawnSync(process.execPath, [compile], {
  stdio: ['ignore', 'pipe', 'inherit'],
  encoding: 'utf8',
});
if (error !== undefined) throw error;
if (status !== 0) {
  console.error(`worker failed: ${isInstalled('esbuild') ? NOT_COMPILED : NOT_INSTALLED}`);
  process.exit(1);
}
const folder = stdout.trim();
if (folder === '') {
  const loader = import.meta.resolve('tsx');
  await import(loader);
  // For the process that bundles the workflow code: it is started as this one was.
  process.execArgv.push('--import', loader);
  await import(new URL('./main.ts', import.meta.url).href);
} else {
  await import(pathToFileURL(join(folder, 'src/worker/main.js')).href);
}

function isInstalled(name) {
  try {
    return import.meta.resolve(name) !== '';
  } catch {
    return false;
  }
}
