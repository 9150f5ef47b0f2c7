import { rename } from 'node:fs/promises';
import { mkdtempSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { TestWorkflowEnvironment } from '@temporalio/testing';

/*
 * A process of its own, started by temporal-cli.ts: has Temporal's SDK download the official CLI of a version and moves
 * the binary to a path. The SDK can neither stop a download nor say where it put it, so it runs here, where it can be
 * killed, and downloads into an empty folder.
 *
 *   temporal-download.ts VERSION FOLDER TARGET
 */

const [, , version, folder, target] = process.argv;
if (version === undefined || folder === undefined || target === undefined) throw new Error('three arguments, please');

const downloadDir = mkdtempSync(join(folder, 'sdk-'));
const environment = await TestWorkflowEnvironment.createLocal({
  server: { executable: { type: 'cached-download', version: `v${version}`, downloadDir } },
});
await environment.teardown();

const binary = readdirSync(downloadDir)
  .map((name) => join(downloadDir, name))
  .find((path) => statSync(path).isFile() && (statSync(path).mode & 0o111) !== 0);
if (binary === undefined) throw new Error('the SDK has downloaded no program');
await rename(binary, target);
