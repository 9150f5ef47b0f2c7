import type { Connection } from '@temporalio/client';
import proto from '@temporalio/proto';
import type { Logger } from 'pino';
import { hasStatus, innermostMessage } from '../grpc-status.js';

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

/** Types of attributes that take the values of another: a run goes on with them, and only its lists are searched otherwise. */
const ALSO_TAKEN: Readonly<Record<keyof typeof TYPES, readonly number[]>> = {
  Keyword: [IndexedValueType.INDEXED_VALUE_TYPE_TEXT],
  Int: [IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE],
  Double: [],
};

type Attribute = readonly [name: string, type: keyof typeof TYPES];

const ATTRIBUTES = Object.entries(SEARCH_ATTRIBUTES) satisfies readonly Attribute[];

/** What is needed of a connection to Temporal. */
export type SearchAttributeService = Pick<
  Connection['operatorService'],
  'listSearchAttributes' | 'addSearchAttributes'
>;

export interface SearchAttributesOf {
  readonly operatorService: SearchAttributeService;
  /** Where Temporal is: Temporal Cloud has other commands. */
  readonly address: string;
  readonly namespace: string;
}

/**
 * Registers the search attributes that the namespace lacks. Where this client may not look at them, they may be there all
 * the same: that is a warning.
 *
 * @throws Error that says how they are registered or mended, when the server does not let us, or has one of another type
 */
export async function ensureSearchAttributes(temporal: SearchAttributesOf, logger: Logger): Promise<void> {
  const { operatorService, address, namespace } = temporal;
  const known = await registered(temporal, logger);
  if (known === undefined) return;
  for (const [name, type] of ATTRIBUTES) refuseOtherType(temporal, [name, type], known[name], logger);
  const missing = ATTRIBUTES.filter(([name]) => !(name in known));
  if (missing.length === 0) return;
  try {
    await operatorService.addSearchAttributes({
      namespace,
      searchAttributes: Object.fromEntries(missing.map(([name, type]) => [name, TYPES[type]])),
    });
    logger.info({ searchAttributes: missing.map(([name]) => name) }, 'search attributes registered');
  } catch (error) {
    throw new Error(
      `the namespace ${namespace} lacks search attributes and they can't be registered from here (${innermostMessage(error)}); ${howToRegister(address, namespace, missing)}`,
      { cause: error },
    );
  }
}

type Known = Readonly<Record<string, number | null | undefined>>;

/** @returns undefined where this client may not ask */
async function registered(
  { operatorService, address, namespace }: SearchAttributesOf,
  logger: Logger,
): Promise<Known | undefined> {
  try {
    const { customAttributes } = await operatorService.listSearchAttributes({ namespace });
    return customAttributes ?? {};
  } catch (error) {
    if (hasStatus(error, MAY_NOT_ASK)) {
      logger.warn(
        `the search attributes of the namespace ${namespace} can't be looked at from here (${innermostMessage(error)}): a run makes no step where one is missing. If they are not there yet, ${howToRegister(address, namespace)}`,
      );
      return undefined;
    }
    throw new Error(
      `the search attributes of the namespace ${namespace} can't be read (${innermostMessage(error)}); next step: see that ${address} has this namespace (TEMPORAL_NAMESPACE), and lets this client use it`,
      { cause: error },
    );
  }
}

/** Codes of gRPC of a server that has such attributes, and does not let everybody ask for them. */
const MAY_NOT_ASK: ReadonlySet<number> = new Set([7, 12]); // PERMISSION_DENIED, UNIMPLEMENTED

function refuseOtherType(
  { address, namespace }: SearchAttributesOf,
  [name, type]: Attribute,
  found: number | null | undefined,
  logger: Logger,
): void {
  if (found === undefined || found === null || found === TYPES[type]) return;
  const is = `the search attribute ${name} of the namespace ${namespace} is of type ${typeName(found)} and not of type ${type}`;
  if (ALSO_TAKEN[type].includes(found)) {
    logger.warn(`${is}: runs go on, and lists of workflows are searched for it otherwise than documented`);
    return;
  }
  throw new Error(
    `${is}, so no run would make a step; next step: ${howToFree(address, namespace, name)}, and start the worker again`,
  );
}

/** `INDEXED_VALUE_TYPE_KEYWORD_LIST` as the commands write it: `KeywordList`. */
function typeName(type: number): string {
  const words = (IndexedValueType[type] ?? `number ${type}`)
    .replace('INDEXED_VALUE_TYPE_', '')
    .toLowerCase()
    .split('_');
  return words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join('');
}

/** The commands by which somebody who may do so registers search attributes of a run, for people. Default: all. */
export function howToRegister(
  address: string,
  namespace: string,
  attributes: readonly Attribute[] = ATTRIBUTES,
): string {
  const own = [
    `temporal operator search-attribute create --namespace ${namespace}`,
    ...attributes.map(([name, type]) => `--name ${name} --type ${type}`),
  ].join(' ');
  const cloud = [
    `tcld namespace search-attributes add --namespace ${namespace}`,
    ...attributes.map(([name, type]) => `--search-attribute ${name}=${type}`),
  ].join(' ');
  return isTemporalCloud(address)
    ? `run:\n${cloud}\nor add them in the Web UI of Temporal Cloud; on a server of your own:\n${own}`
    : `run:\n${own}\nor, on Temporal Cloud, in its Web UI or by:\n${cloud}`;
}

/** Temporal Cloud removes no attribute; what has its name then is not this one. */
function howToFree(address: string, namespace: string, name: string): string {
  const own = `temporal operator search-attribute remove --namespace ${namespace} --name ${name}`;
  const cloud = `tcld namespace search-attributes rename --namespace ${namespace} --existing-name ${name} --new-name ${name}Before`;
  return isTemporalCloud(address) ? `run: ${cloud}` : `run: ${own} (on Temporal Cloud: ${cloud})`;
}

function isTemporalCloud(address: string): boolean {
  const host = address.replace(/:[0-9]+$/, '');
  return host.endsWith('.tmprl.cloud') || host.endsWith('.temporal.io');
}
