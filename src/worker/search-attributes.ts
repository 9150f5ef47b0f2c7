import type { Connection } from '@temporalio/client';
import proto from '@temporalio/proto';
import type { Logger } from 'pino';

const { IndexedValueType } = proto.temporal.api.enums.v1;

/** The search attributes that a run sets. Unknown to the server, they would make its workflow task fail for ever. */
export const SEARCH_ATTRIBUTES = {
  VerdigrisPhase: 'Keyword',
  VerdigrisTraffic: 'Int',
  VerdigrisGate: 'Keyword',
  VerdigrisLagSeconds: 'Double',
} as const;

const TYPES = {
  Keyword: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
  Int: IndexedValueType.INDEXED_VALUE_TYPE_INT,
  Double: IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
} as const;

/**
 * Registers the search attributes that the namespace lacks.
 *
 * @throws Error with the commands that register them, when the server does not let us.
 */
export async function ensureSearchAttributes(connection: Connection, namespace: string, logger: Logger): Promise<void> {
  const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace });
  const missing = Object.entries(SEARCH_ATTRIBUTES).filter(([name]) => !(name in (customAttributes ?? {})));
  if (missing.length === 0) return;
  try {
    await connection.operatorService.addSearchAttributes({
      namespace,
      searchAttributes: Object.fromEntries(missing.map(([name, type]) => [name, TYPES[type]])),
    });
    logger.info({ searchAttributes: missing.map(([name]) => name) }, 'search attributes registered');
  } catch (error) {
    const commands = missing.map(
      ([name, type]) =>
        `temporal operator search-attribute create --namespace ${namespace} --name ${name} --type ${type}`,
    );
    throw new Error(
      `the namespace ${namespace} lacks search attributes and they can't be registered from here; run:\n${commands.join('\n')}`,
      {
        cause: error,
      },
    );
  }
}
