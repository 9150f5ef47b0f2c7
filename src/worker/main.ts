import { NativeConnection, Runtime } from '@temporalio/worker';
import { temporalConfig } from '../temporal-config.js';
import { createWorker } from './create-worker.js';
import { createLogger, levelOf, temporalLogger } from './logger.js';
import { knownConnections, secretsOf, secretsRead } from './connections.js';
import { redactor } from './redact.js';
import { ensureSearchAttributes } from './search-attributes.js';
import { connectToTemporal } from './temporal-connection.js';

/** `npm run worker`: serves the task queue until it is asked to stop, then lets activities end where they can go on. */
async function main(): Promise<void> {
  const redact = redactor(secretsOf(process.env), secretsRead);
  const logger = createLogger(redact, levelOf(process.env));
  Runtime.install({
    logger: temporalLogger(logger),
    telemetryOptions: { logging: { filter: { core: 'WARN', other: 'WARN' }, forward: {} } },
    shutdownSignals: ['SIGINT', 'SIGTERM', 'SIGQUIT', 'SIGHUP'],
  });

  const { connectionOptions, namespace = 'default' } = temporalConfig();
  const address = connectionOptions.address ?? 'localhost:7233';
  const connections = knownConnections(process.env);
  logger.info({ address, namespace, connections }, 'worker starting');
  if (connections.length === 0) {
    logger.warn('no database is known here: give each one as VERDIGRIS_CONNECTION_<NAME> (docs/connections.md)');
  }
  const client = await connectToTemporal(connectionOptions, address);
  try {
    await ensureSearchAttributes({ operatorService: client.operatorService, address, namespace }, logger);
  } finally {
    await client.close();
  }

  const connection = await NativeConnection.connect(connectionOptions);
  try {
    const worker = await createWorker({ connection, namespace, environment: process.env, redact });
    logger.info({ taskQueue: worker.options.taskQueue }, 'worker ready');
    await worker.run();
    logger.info('worker stopped');
  } finally {
    await connection.close();
  }
}

main().catch((error: unknown) => {
  const redact = redactor(secretsOf(process.env), secretsRead);
  createLogger(redact, 'info').fatal(
    { error: error instanceof Error ? error.message : String(error) },
    'worker failed',
  );
  // The SDK's runtime would keep the process alive.
  process.exit(1);
});
