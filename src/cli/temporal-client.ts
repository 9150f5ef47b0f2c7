import { Client, Connection } from '@temporalio/client';
import type { ClientConnectConfig } from '@temporalio/envconfig';
import { hasStatus, innermostMessage, REFUSED } from '../grpc-status.js';
import { temporalConfig } from '../temporal-config.js';
import type { ServerFlags } from './start-request.js';
import { CommandError, EXIT } from './terminal.js';

/** How long a server may take to answer the first call. */
const CONNECT_TIMEOUT_MS = 5_000;

/**
 * Runs `work` with a client of the Temporal server that the flags, else the environment and the profile say, as the
 * official CLI reads them; closes the connection whatever happens.
 *
 * @throws CommandError when no server answers there, or it refuses this client.
 */
export async function withClient<T>(flags: ServerFlags, work: (client: Client) => Promise<T>): Promise<T> {
  const { connectionOptions } = configOf(flags);
  const address = addressOf(flags);
  const connection = await connect({ ...connectionOptions, address, connectTimeout: CONNECT_TIMEOUT_MS }, address);
  try {
    return await work(new Client({ connection, namespace: namespaceOf(flags) }));
  } catch (error) {
    throw lacksNamespace(error) ? noSuchNamespace(flags, error) : error;
  } finally {
    await connection.close().catch(() => undefined);
  }
}

function lacksNamespace(error: unknown): boolean {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if (cause.name === 'NamespaceNotFoundError') return true;
  }
  return false;
}

function noSuchNamespace(flags: ServerFlags, cause: unknown): CommandError {
  return new CommandError(
    `the Temporal server at ${addressOf(flags)} has no namespace "${namespaceOf(flags)}"`,
    'mend --namespace, TEMPORAL_NAMESPACE or the profile; which there are: temporal operator namespace list',
    EXIT.unusable,
    cause,
  );
}

async function connect(options: Parameters<typeof Connection.connect>[0], address: string): Promise<Connection> {
  try {
    return await Connection.connect(options);
  } catch (error) {
    throw notConnected(address, error);
  }
}

function notConnected(address: string, error: unknown): CommandError {
  const why = innermostMessage(error);
  if (hasStatus(error, REFUSED)) {
    return new CommandError(
      `the Temporal server at ${address} refuses this client (${why})`,
      'see that TEMPORAL_API_KEY, or the certificate and key of TEMPORAL_TLS_... or of the profile, are still good, and for this address and namespace',
      EXIT.unusable,
      error,
    );
  }
  return new CommandError(
    `no Temporal server answers at ${address} (${why})`,
    'say where it is (--address, TEMPORAL_ADDRESS or a profile of the temporal CLI), and see to its TLS; or start one: npm run dev, or temporal server start-dev --db-filename FILE, which still has its runs when it is started again',
    EXIT.unusable,
    error,
  );
}

/** Names of gRPC status codes that mean that nobody answered in time. */
const NO_ANSWER = new Set([1, 4]); // CANCELLED, DEADLINE_EXCEEDED

/** Whether a call to a workflow got no answer in time: no worker is up, or it is busy. */
export function isNoAnswer(error: unknown): boolean {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if (cause.name === 'WorkflowUpdateRPCTimeoutOrCancelledError') return true;
  }
  return hasStatus(error, NO_ANSWER);
}

/** Where the flags, else the environment and the profile say that Temporal is. */
export function addressOf(flags: ServerFlags): string {
  return flags.address ?? configOf(flags).connectionOptions.address ?? 'localhost:7233';
}

/** The namespace that the flags, else the environment and the profile say. */
export function namespaceOf(flags: ServerFlags): string {
  return flags.namespace ?? configOf(flags).namespace ?? 'default';
}

/** What the environment and the profile say. @throws CommandError when there is no such profile, or it can't be read. */
function configOf(flags: ServerFlags): ClientConnectConfig {
  try {
    return temporalConfig(flags.profile);
  } catch (error) {
    throw new CommandError(
      `the settings of the temporal CLI can't be used: ${innermostMessage(error)}`,
      'mend --profile, TEMPORAL_PROFILE or the file of the profiles; which there are: temporal config list',
      EXIT.unusable,
      error,
    );
  }
}
