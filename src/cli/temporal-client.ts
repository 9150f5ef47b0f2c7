import { Client, Connection, isGrpcServiceError } from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import type { ServerFlags } from './start-request.js';
import { CommandError } from './terminal.js';

/** How long a server may take to answer the first call. */
const CONNECT_TIMEOUT_MS = 5_000;

/**
 * Runs `work` with a client of the Temporal server that the flags, else the environment and the profile say, as the
 * official CLI reads them; closes the connection whatever happens.
 *
 * @throws CommandError when no server answers there.
 */
export async function withClient<T>(flags: ServerFlags, work: (client: Client) => Promise<T>): Promise<T> {
  const { connectionOptions, namespace = 'default' } = loadClientConnectConfig(
    flags.profile === undefined ? {} : { profile: flags.profile },
  );
  const address = flags.address ?? connectionOptions.address ?? 'localhost:7233';
  const connection = await connect({ ...connectionOptions, address, connectTimeout: CONNECT_TIMEOUT_MS }, address);
  try {
    return await work(new Client({ connection, namespace: flags.namespace ?? namespace }));
  } finally {
    await connection.close().catch(() => undefined);
  }
}

async function connect(options: Parameters<typeof Connection.connect>[0], address: string): Promise<Connection> {
  try {
    return await Connection.connect(options);
  } catch (error) {
    throw new CommandError(
      `no Temporal server answers at ${address}`,
      'start one (npm run dev, or temporal server start-dev), or say where it is: --address, TEMPORAL_ADDRESS or a profile of the temporal CLI',
      2,
      error,
    );
  }
}

/** Names of gRPC status codes that mean that nobody answered in time. */
const NO_ANSWER = new Set([1, 4]); // CANCELLED, DEADLINE_EXCEEDED

/** Whether a call to a workflow got no answer in time: no worker is up, or it is busy. */
export function isNoAnswer(error: unknown): boolean {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if (cause.name === 'WorkflowUpdateRPCTimeoutOrCancelledError') return true;
    if (isGrpcServiceError(cause) && NO_ANSWER.has(cause.code)) return true;
  }
  return false;
}

/** The innermost message of an error: what the server, or the workflow, has said. */
export function innermostMessage(error: unknown): string {
  let message = String(error);
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    message = isGrpcServiceError(cause) ? cause.details : cause.message;
  }
  return message;
}
