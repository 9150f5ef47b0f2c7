import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { inject } from 'vitest';
import { bundleWorkflows } from '../../src/worker/bundle-workflows.js';

/**
 * The workflow code of this run of the tests: bundled by the first test that needs it, read by the others. Two that
 * begin together both bundle, to the same end.
 */
export async function testBundle(): Promise<{ code: string }> {
  return { code: readFileSync(await testBundleFile(), 'utf8') };
}

/** The file that has it, for workers in processes of their own. */
export async function testBundleFile(): Promise<string> {
  const file = join(inject('bundleFolder'), 'workflows.js');
  if (existsSync(file)) return file;
  const { code } = await bundleWorkflows();
  const unfinished = `${file}.${process.pid}`;
  writeFileSync(unfinished, code);
  renameSync(unfinished, file);
  return file;
}
