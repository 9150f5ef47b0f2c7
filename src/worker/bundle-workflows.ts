import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';

/** Bundles the workflow code: TypeScript in a checkout, JavaScript in an installed package. */
export async function bundleWorkflows(): Promise<{ code: string }> {
  return bundleWorkflowCode({
    workflowsPath: workflowModule('index'),
    workflowInterceptorModules: [workflowModule('interceptors')],
    logger: new DefaultLogger('WARN'),
  });
}

function workflowModule(name: string): string {
  const source = fileURLToPath(new URL(`../../workflows/${name}.ts`, import.meta.url));
  const compiled = fileURLToPath(new URL(`../../workflows/${name}.js`, import.meta.url));
  return existsSync(source) ? source : compiled;
}

/**
 * The same in a process of its own: what the bundler needs, some 130 MB, is given back with that process, while a
 * worker that has bundled in its own memory keeps it for good.
 */
export async function bundleWorkflowsApart(): Promise<{ code: string }> {
  const program = fileURLToPath(
    new URL(`./bundle-main.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`, import.meta.url),
  );
  // However this process was started (a loader for TypeScript, for one), so is that one.
  const child = spawn(process.execPath, [...process.execArgv, program], { stdio: ['ignore', 'pipe', 'inherit'] });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error('the workflow code could not be bundled: see the lines above');
  return { code: Buffer.concat(chunks).toString() };
}
