import { randomUUID } from 'node:crypto';
import { Client, Connection } from '@temporalio/client';
import { inject } from 'vitest';

/** The Temporal dev server of the run. */
export interface TestTemporal {
  /** `127.0.0.1:<port>` */
  readonly address: string;
  readonly namespace: string;
  /** The official `temporal` CLI, for tests that work as an engineer does. */
  readonly cliPath: string;
}

/** Where the run's Temporal dev server is. */
export function testTemporal(): TestTemporal {
  return { ...inject('temporal'), namespace: 'default' };
}

/** A client of the run's Temporal server. The caller closes `client.connection`. */
export async function temporalClient(): Promise<Client> {
  const { address, namespace } = testTemporal();
  return new Client({ connection: await Connection.connect({ address }), namespace });
}

/** A task queue that no other test uses: two workers of one process must not share one. */
export function uniqueTaskQueue(purpose: string): string {
  return `${purpose}-${randomUUID().slice(0, 8)}`;
}
