import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/*
 * `npm run worker` in a checkout. The TypeScript is compiled in a process that ends (compile.js), and this one is the
 * worker then: a loader that compiles files as they are imported would stay in its memory for good.
 */

const compile = fileURLToPath(new URL('./compile.js', import.meta.url));
const { status, stdout, error } = spawnSync(process.execPath, [compile], {
  stdio: ['ignore', 'pipe', 'inherit'],
  encoding: 'utf8',
});
if (error !== undefined) throw error;
if (status !== 0) {
  console.error('worker failed: its source could not be compiled, see the lines above');
  process.exit(1);
}
await import(pathToFileURL(join(stdout.trim(), 'src/worker/main.js')).href);
