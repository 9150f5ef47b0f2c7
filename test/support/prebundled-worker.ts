import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { NativeConnection, Runtime } from '@temporalio/worker';
import { secretsOf, secretsRead } from '../../src/worker/connections.js';
import { createWorker } from '../../src/worker/create-worker.js';
import { createLogger, levelOf, temporalLogger } from '../../src/worker/logger.js';
import { redactor } from '../../src/worker/redact.js';

/*
 * The worker of src/worker/main.ts with workflow code that has been bundled before: bundling takes longer than anything
 * else that a worker does when it starts, and tests start hundreds. With VERDIGRIS_TEST_ON_REQUEST it does all but the
 * last step, and takes that when it is told to by a line.
 */

const redact = redactor(secretsOf(process.env), secretsRead);
const logger = createLogger(redact, levelOf(process.env));
Runtime.install({
  logger: temporalLogger(logger),
  telemetryOptions: { logging: { filter: { core: 'WARN', other: 'WARN' }, forward: {} } },
});
const { connectionOptions, namespace = 'default' } = loadClientConnectConfig();
const connection = await NativeConnection.connect(connectionOptions);
const workflowBundle = { code: readFileSync(process.env['VERDIGRIS_TEST_BUNDLE'] ?? '', 'utf8') };
if (process.env['VERDIGRIS_TEST_ON_REQUEST'] !== undefined) {
  logger.info('worker loaded');
  process.stdin.once('end', () => process.exit());
  await once(process.stdin, 'data');
}
const worker = await createWorker({ connection, namespace, environment: process.env, redact, workflowBundle });
logger.info('worker ready');
await worker.run();
