import { Connection, type ConnectionOptions } from '@temporalio/client';
import { hasStatus, innermostMessage, REFUSED } from '../grpc-status.js';

/** Connects to Temporal, before the worker does. @throws Error that says what to do when it does not answer, or refuses this client */
export async function connectToTemporal(options: ConnectionOptions, address: string): Promise<Connection> {
  try {
    return await Connection.connect(options);
  } catch (error) {
    const why = innermostMessage(error);
    if (hasStatus(error, REFUSED)) {
      const next =
        'see that TEMPORAL_API_KEY, or the certificate and key, are still good, and for this address and namespace';
      throw new Error(`the Temporal server at ${address} refuses this worker (${why}); next step: ${next}`, {
        cause: error,
      });
    }
    const next = 'start it, or say where it is: TEMPORAL_ADDRESS, or a profile of the Temporal CLI (TEMPORAL_PROFILE)';
    throw new Error(`no Temporal server answers at ${address} (${why}); next step: ${next}`, { cause: error });
  }
}
