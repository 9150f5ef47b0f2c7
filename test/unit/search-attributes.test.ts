import { createServer, type Http2Server } from 'node:http2';
import type { AddressInfo } from 'node:net';
import proto from '@temporalio/proto';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  ensureSearchAttributes,
  howToRegister,
  type SearchAttributeService,
} from '../../src/worker/search-attributes.js';
import { connectToTemporal } from '../../src/worker/temporal-connection.js';

const { IndexedValueType } = proto.temporal.api.enums.v1;
const ALL = {
  VerdigrisPhase: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
  VerdigrisTraffic: IndexedValueType.INDEXED_VALUE_TYPE_INT,
  VerdigrisGate: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
  VerdigrisLagSeconds: IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
};
const OWN = 'localhost:7233';
const CLOUD = 'orders.a1b2c.tmprl.cloud:7233';
const TCLD = 'tcld namespace search-attributes add --namespace orders --search-attribute VerdigrisPhase=Keyword';
const CREATE = 'temporal operator search-attribute create --namespace orders --name VerdigrisPhase --type Keyword';

const lines: string[] = [];
const logger = pino({}, { write: (line) => lines.push((JSON.parse(line) as { msg: string }).msg) });

beforeEach(() => void (lines.length = 0));

/** What a server answers: its attributes, or a status of gRPC. */
interface Answers {
  readonly list: Readonly<Record<string, number>> | Error;
  readonly add?: Error;
}

function refusal(code: number, details: string): Error {
  return Object.assign(new Error(`${code}: ${details}`), { code, details, metadata: {} });
}

async function ensure({ list, add }: Answers, address = OWN): Promise<object | undefined> {
  let added: object | undefined;
  const operatorService = {
    listSearchAttributes: () =>
      list instanceof Error ? Promise.reject(list) : Promise.resolve({ customAttributes: list }),
    addSearchAttributes: ({ searchAttributes }: { searchAttributes: object }) => {
      added = searchAttributes;
      return add === undefined ? Promise.resolve({}) : Promise.reject(add);
    },
  } as unknown as SearchAttributeService;
  await ensureSearchAttributes({ operatorService, address, namespace: 'orders' }, logger);
  return added;
}

describe('the search attributes of a namespace', () => {
  it('are registered where they are missing, and left alone where they are there', async () => {
    const { VerdigrisGate, ...others } = ALL;
    expect(await ensure({ list: others })).toEqual({ VerdigrisGate });
    expect(await ensure({ list: { ...ALL, CustomOrder: 1 } })).toBeUndefined();
  });

  it.each([
    [7, 'Request unauthorized.'],
    [12, 'unknown service temporal.api.operatorservice.v1.OperatorService'],
  ])('may not be looked at by everybody (%i): the worker starts with a warning', async (code, details) => {
    expect(await ensure({ list: refusal(code, details) }, CLOUD)).toBeUndefined();
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain(details);
    expect(lines[0]).toContain(TCLD);
  });

  it('of a namespace that is not there are told with what to do', async () => {
    const error = ensure({ list: refusal(5, 'Namespace orders is not found.') });
    await expect(error).rejects.toThrow(/Namespace orders is not found.*next step: .*TEMPORAL_NAMESPACE/);
  });

  it('that this client may not add are told with the commands of both kinds of server, the likely one first', async () => {
    const denied: Answers = { list: {}, add: refusal(7, 'Request unauthorized.') };
    const messageAt = (address: string): Promise<string> => ensure(denied, address).then(String, String);
    for (const address of [CLOUD, 'eu-central-1.aws.api.temporal.io:7233']) {
      const cloud = await messageAt(address);
      expect(cloud).toContain('Request unauthorized.');
      expect(cloud.indexOf(TCLD)).toBeGreaterThan(0);
      expect(cloud.indexOf(CREATE)).toBeGreaterThan(cloud.indexOf(TCLD));
    }
    const own = await messageAt(OWN);
    expect(own.indexOf(CREATE)).toBeGreaterThan(0);
    expect(own.indexOf(TCLD)).toBeGreaterThan(own.indexOf(CREATE));
    expect(own).toContain('--search-attribute VerdigrisTraffic=Int');
    expect(howToRegister(OWN, 'orders')).toContain('--name VerdigrisLagSeconds --type Double');
  });

  it('that a run could not set, since they are of another type, are refused with the command that frees the name', async () => {
    const list = { ...ALL, VerdigrisTraffic: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD };
    await expect(ensure({ list })).rejects.toThrow(
      /VerdigrisTraffic .* of type Keyword and not of type Int.*search-attribute remove --namespace orders --name VerdigrisTraffic/,
    );
    await expect(ensure({ list }, CLOUD)).rejects.toThrow(/tcld namespace search-attributes rename/);
    const lists = { ...ALL, VerdigrisPhase: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST };
    await expect(ensure({ list: lists })).rejects.toThrow(/of type KeywordList/);
  });

  it('of another type that takes the values all the same are a warning', async () => {
    await ensure({ list: { ...ALL, VerdigrisTraffic: IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE } });
    expect(lines).toEqual([expect.stringContaining('is of type Double and not of type Int')]);
  });
});

describe('a Temporal server that refuses the worker', () => {
  let server: Http2Server | undefined;
  afterEach(() => server?.close());

  it('is not said to be away', async () => {
    server = createServer().on('stream', (stream) => {
      const trailersOnly = { 'content-type': 'application/grpc', 'grpc-status': 16, 'grpc-message': 'unauthorized' };
      stream.respond({ ':status': 200, ...trailersOnly }, { endStream: true });
    });
    const listening = server.listen(0, '127.0.0.1');
    await new Promise((resolve) => listening.once('listening', resolve));
    const address = `127.0.0.1:${(listening.address() as AddressInfo).port}`;
    await expect(connectToTemporal({ address, connectTimeout: 5_000 }, address)).rejects.toThrow(
      /refuses this worker \(unauthorized\); next step: .*TEMPORAL_API_KEY/,
    );
  });
});
