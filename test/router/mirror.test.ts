import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import type { RouterMetrics } from '../../src/router/metrics-snapshot.js';
import { createRouter, type Router, type RouterOptions } from '../../src/router/index.js';
import { differenceOf, type ResultDigest } from '../../src/router/result-difference.js';
import { metric, MIGRATION, pause, Sides, until } from './sides.js';
import { TcpProxy } from './tcp-proxy.js';

let sides: Sides;
let logged: object[];

beforeAll(async () => {
  sides = await Sides.create('mirror');
  await sides.sql('blue', 'INSERT INTO item SELECT g, g FROM generate_series(1, 20) g');
  await sides.replicate();
  await sides.claim();
});

afterAll(() => sides.drop());

beforeEach(() => {
  logged = [];
});

const log = (facts: object, message?: string): void => {
  if (message?.includes('mirrored read') === true) logged.push(facts);
};
const logger = { debug: () => undefined, info: log, warn: log };

async function mirroring(options: Partial<RouterOptions> = {}): Promise<Router> {
  const router = await sides.router({ mirror: { share: 1, concurrency: 4 }, logger, ...options });
  await until(() => router.route().epoch > 0);
  return router;
}

async function outcomes(router: Router, outcome: string): Promise<number> {
  return metric(router, 'verdigris_router_mirrored_reads_total', { outcome });
}

async function judged(router: Router, reads: number): Promise<void> {
  await until(async () => (await metric(router, 'verdigris_router_mirrored_reads_total')) >= reads, 10_000);
}

const ALL = 'SELECT id, value FROM item ORDER BY id';

test('equal answers are counted, and the caller has those of blue', async () => {
  const router = await mirroring();
  for (let n = 1; n <= 10; n++) {
    expect((await router.read('u', ALL, undefined, { endpoint: 'items' })).side).toBe('blue');
    await judged(router, n);
  }
  expect(await outcomes(router, 'same')).toBe(10);
  expect(logged).toEqual([]);
});

test('a row that differs is counted, with an example that holds no value', async () => {
  await sides.sql(
    'green',
    'SET session_replication_role = replica; ALTER TABLE item DISABLE TRIGGER _verdigris_fence; UPDATE item SET value = 777777 WHERE id = 7; ALTER TABLE item ENABLE ALWAYS TRIGGER _verdigris_fence; RESET session_replication_role',
  );
  try {
    const router = await mirroring();
    const secret = "SELECT id, value, 'secret' AS word FROM item WHERE id < 10 ORDER BY id";
    const { rows } = await router.read('u', secret, undefined, { endpoint: 'items' });
    expect(rows).toHaveLength(9);
    await judged(router, 1);
    expect(await outcomes(router, 'different')).toBe(1);
    const [example] = logged;
    expect(example).toMatchObject({ endpoint: 'items', kind: 'rows', columns: ['value'], rows: { blue: 9, green: 9 } });
    expect(JSON.stringify(logged)).not.toMatch(/777777|secret/);
    // The heartbeat carries it to the gates.
    await until(async () => {
      const [row] = await sides.sql<{ metrics: RouterMetrics }>(
        'blue',
        'SELECT metrics FROM verdigris.router WHERE instance = $1',
        [router.instance],
      );
      const { different, examples, endpoints } = row?.metrics.mirroredReads ?? {};
      return different === 1 && examples?.length === 1 && endpoints?.['items']?.different === 1;
    });
  } finally {
    await sides.sql(
      'green',
      'ALTER TABLE item DISABLE TRIGGER _verdigris_fence; UPDATE item SET value = 7 WHERE id = 7; ALTER TABLE item ENABLE ALWAYS TRIGGER _verdigris_fence',
    );
  }
});

test('rows that are equal in the keys of the order come in any, which is told', async () => {
  for (const [side, order] of [
    ['blue', 'id'],
    ['green', 'id DESC'],
  ] as const) {
    await sides.sql(side, `CREATE TABLE tied AS SELECT id, id % 2 AS status FROM item ORDER BY ${order}`);
  }
  const router = await mirroring();
  await router.read('u', 'SELECT id, status FROM tied ORDER BY status', undefined, { endpoint: 'tied' });
  await judged(router, 1);
  expect(await outcomes(router, 'same')).toBe(1);
  expect(logged).toMatchObject([{ endpoint: 'tied', kind: 'order', columns: [] }]);
  await sides.sql('green', 'UPDATE tied SET status = 1 - status');
  await router.read('u', 'SELECT id % 2 AS status FROM tied ORDER BY tied.status');
  await router.read('u', 'SELECT id FROM tied ORDER BY id');
  await judged(router, 3);
  expect(await outcomes(router, 'same')).toBe(3);
});

test('a green that is only behind does not differ', async () => {
  const router = await mirroring();
  await sides.sql('green', 'BEGIN; LOCK TABLE item IN SHARE MODE');
  await router.write('u', 'UPDATE item SET value = value + 100 WHERE id = 3');
  await router.read('u', ALL);
  await pause(200);
  await sides.sql('green', 'ROLLBACK');
  await judged(router, 1);
  expect(await outcomes(router, 'same')).toBe(1);
});

test('what changes from one answer to the next is unsettled', async () => {
  const router = await mirroring();
  await router.read('u', 'SELECT clock_timestamp()::text AS now');
  await judged(router, 1);
  expect(await outcomes(router, 'unsettled')).toBe(1);
});

test("green's error is counted and reaches nobody; a read that writes runs on blue alone", async () => {
  await sides.sql(
    'blue',
    'CREATE TABLE IF NOT EXISTS only_blue AS SELECT 1 AS n; CREATE SEQUENCE IF NOT EXISTS counter',
  );
  await sides.sql('green', 'CREATE SEQUENCE IF NOT EXISTS counter');
  const router = await mirroring();
  expect((await router.read('u', 'SELECT n FROM only_blue')).rows).toEqual([{ n: 1 }]);
  await judged(router, 1);
  expect(await outcomes(router, 'failed')).toBe(1);
  expect(logged).toMatchObject([{ code: '42P01' }]);
  await router.read('u', "SELECT nextval('counter')");
  await judged(router, 2);
  expect(await outcomes(router, 'skipped')).toBe(1);
  expect(await sides.sql('green', 'SELECT is_called FROM counter')).toEqual([{ is_called: false }]);
});

test("a read that both sides need longer for than the mirror gives it is not green's failure, nor is blue's own one", async () => {
  for (const [side, slow] of [
    ['blue', ''],
    ['green', 'pg_sleep(3)'],
  ] as const) {
    await sides.sql(
      side,
      `CREATE OR REPLACE VIEW slow_on_green AS SELECT id, value FROM item ${slow && `, LATERAL (SELECT ${slow}) AS s (waited)`} WHERE id = 1`,
    );
  }
  // Blue answers the caller, and nobody else.
  await sides.sql(
    'blue',
    `CREATE FUNCTION once() RETURNS int LANGUAGE plpgsql AS $$
     BEGIN
       IF current_setting('transaction_read_only')::boolean THEN RAISE 'once only'; END IF;
       RETURN 1;
     END $$`,
  );
  await sides.sql('green', 'CREATE FUNCTION once() RETURNS int LANGUAGE sql AS $$SELECT 2$$');
  const router = await mirroring();
  const texts = ['SELECT pg_sleep(2.2)', 'SELECT once()', 'SELECT id, value FROM slow_on_green'];
  await Promise.all(texts.map((text) => router.read('u', text)));
  await judged(router, 3);
  expect([await outcomes(router, 'skipped'), await outcomes(router, 'failed')]).toEqual([2, 1]);
  expect(logged).toMatchObject([{ code: '57014' }]);
});

test('a green that hangs slows no caller, and no more reads are mirrored than are allowed', async () => {
  const proxy = new TcpProxy(sides.green.port);
  await proxy.listen();
  const router = await mirroring({ green: { ...sides.green.config, port: proxy.port } });
  await router.read('u', ALL);
  await judged(router, 1);
  proxy.freeze();
  const started = performance.now();
  await Promise.all(Array.from({ length: 50 }, () => router.read('u', ALL)));
  // The mirror itself gives a green up after 2.5 s.
  expect(performance.now() - started).toBeLessThan(2_000);
  proxy.thaw();
  await router.close();
  await proxy.down();
});

test('a read that takes an advisory lock keeps it for the application alone', async () => {
  const leads = (answer: string): string =>
    `CREATE OR REPLACE FUNCTION leads() RETURNS boolean LANGUAGE sql AS 'SELECT ${answer}'`;
  await sides.sql('blue', leads('pg_try_advisory_lock_shared(7)'));
  await sides.sql('green', leads('NOT pg_try_advisory_lock_shared(7)'));
  const router = await mirroring({ blue: { ...sides.blue.config, max: 1 } });
  await router.read('u', 'SELECT leads()');
  // Blue's connections have been asked too, since the answers differ.
  await judged(router, 1);
  expect(await outcomes(router, 'different')).toBe(1);
  const held = `SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 7
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`;
  expect(await sides.sql('blue', held)).toHaveLength(1);
  expect(await sides.sql('green', held)).toHaveLength(0);
  await router.read('u', 'SELECT pg_try_advisory_lock(8)');
  await pause(100);
  expect(await metric(router, 'verdigris_router_mirrored_reads_total')).toBe(1);
});

test('several statements in one text pass, and are not compared', async () => {
  const router = await mirroring();
  const both = (await router.read('u', 'SELECT 1 AS one; SELECT 2 AS two')) as unknown as { rows: unknown[] }[];
  expect(both.map(({ rows }) => rows)).toEqual([[{ one: 1 }], [{ two: 2 }]]);
  await judged(router, 1);
  expect(await outcomes(router, 'skipped')).toBe(1);
});

test('several statements in one text do nothing on green, though one of them ends the transaction that only reads', async () => {
  for (const side of ['blue', 'green'] as const) await sides.sql(side, 'CREATE SEQUENCE of_several');
  const router = await mirroring();
  // Green is asked first.
  const chance = vi.spyOn(Math, 'random').mockReturnValue(0.1);
  try {
    for (const end of ['COMMIT', 'ROLLBACK', 'ABORT'])
      await router.read('u', `SELECT 1; ${end}; SELECT nextval('of_several')`);
    await judged(router, 3);
  } finally {
    chance.mockRestore();
  }
  expect(await outcomes(router, 'skipped')).toBe(3);
  const called = 'SELECT is_called FROM of_several';
  expect([await sides.sql('blue', called), await sides.sql('green', called)]).toEqual([
    [{ is_called: true }],
    [{ is_called: false }],
  ]);
});

test("a text that is its template object's, and not its own, is mirrored", async () => {
  class Template {
    get text(): string {
      return ALL;
    }
  }
  const router = await mirroring();
  await router.read('u', new Template());
  await judged(router, 1);
  expect(await outcomes(router, 'same')).toBe(1);
});

test('a share that is none, and a run that is none, mirror nothing', async () => {
  const none = await mirroring({ mirror: { share: 0 } });
  await none.read('u', ALL);
  const other = await sides.router({ migration: 'another', mirror: { share: 1 } });
  await other.read('u', ALL);
  await pause(100);
  expect(await metric(none, 'verdigris_router_mirrored_reads_total')).toBe(0);
  expect(await metric(other, 'verdigris_router_mirrored_reads_total')).toBe(0);
  const { blue, green } = { blue: sides.blue.config, green: sides.green.config };
  expect(() => createRouter({ migration: MIGRATION, blue, green, mirror: { share: 5 } })).toThrow(RangeError);
  expect(() => createRouter({ migration: MIGRATION, blue, green, mirror: { share: 1, concurrency: 0 } })).toThrow(
    RangeError,
  );
});

describe('two answers', () => {
  const digest = (columns: string[], ...rows: string[][]): ResultDigest => ({ columns, rows });

  test.each([
    ['the same', digest(['a'], ['1']), digest(['a'], ['1']), undefined],
    ['more columns on green', digest(['a'], ['1']), digest(['b', 'a'], ['2', '1']), undefined],
    ['a column less', digest(['a', 'b'], ['1', '2']), digest(['a'], ['1']), { kind: 'columns', columns: ['b'] }],
    ['a row less', digest(['a'], ['1'], ['2']), digest(['a'], ['1']), { kind: 'count', columns: [] }],
    ['another row', digest(['a', 'b'], ['1', '2']), digest(['a', 'b'], ['1', '3']), { kind: 'rows', columns: ['b'] }],
    [
      'a row twice',
      digest(['a'], ['1'], ['1'], ['2']),
      digest(['a'], ['1'], ['2'], ['2']),
      { kind: 'rows', columns: ['a'] },
    ],
  ])('%s', (_name, blue, green, expected) => {
    expect(differenceOf(blue, green, 'SELECT * FROM t ORDER BY 1')).toEqual(expected);
  });

  const [blue, green] = [
    digest(['id', 'Status', 'at'], ['=1', '=b', '=9'], ['=2', '=B', '=9'], ['=3', '=c', '=8']),
    digest(['id', 'Status', 'at'], ['=2', '=B', '=9'], ['=1', '=b', '=9'], ['=3', '=c', '=8']),
  ];

  test.each([
    'SELECT * FROM t',
    'SELECT * FROM (SELECT * FROM t ORDER BY id) s',
    'SELECT id, row_number() OVER (ORDER BY id) FROM t -- ORDER BY id',
    "SELECT 'ORDER BY id', E'\\' ORDER BY id', $q$ ORDER BY id $q$ FROM t /* /* ORDER BY */ ORDER BY id */",
    'SELECT "order by" FROM t "ORDER BY id"',
  ])('in another order are the same where none was asked for: %s', (text) => {
    expect(differenceOf(blue, green, text)).toBeUndefined();
  });

  test.each([
    ['SELECT * FROM t ORDER BY at', []],
    ['SELECT * FROM t ORDER BY at DESC NULLS LAST, "Status" LIMIT 3', []],
    ['SELECT * FROM t ORDER BY lower(note), id', []],
    ['SELECT * FROM t o ORDER BY o.id', []],
    ['SELECT * FROM t ORDER BY note, id', []],
    ['SELECT * FROM t ORDER BY status COLLATE "C", id LIMIT 5', []],
    ['SELECT * FROM t ORDER BY at LIMIT 1', []],
    ['SELECT * FROM t ORDER BY id', ['id']],
    ['(SELECT * FROM t) UNION SELECT * FROM u order -- by\n by 3, 1 desc FETCH FIRST 3 ROWS ONLY;', ['id']],
    ["SELECT * FROM t WHERE note = 'it''s' ORDER BY at DESC, ID asc nulls first, note FOR SHARE", ['id']],
  ])('in another order differ only by keys that show it: %s', (text, columns) => {
    expect(differenceOf(blue, green, text)).toEqual({ kind: 'order', columns });
  });

  test.each([
    ['=1.5', '=1.50', []],
    ['=-0', '=0.00', []],
    ['={"days":1}', '={"hours":24}', []],
    ['={"days":30,"hours":1}', '={"months":1,"minutes":60}', []],
    ['=1.5', '=1.05', ['price']],
    ['=9007199254740992', '=9007199254740993', ['price']],
    ['={"days":1}', '={"hours":25}', ['price']],
    ['={"days":1}', '={"days":1,"more":0}', ['price']],
  ])('keys are equal where the database may hold them for equal: %s and %s', (one, other, columns) => {
    const rows = [
      ['=1', one],
      ['=2', other],
    ];
    const ofGreen = digest(['id', 'price'], ...rows.toReversed());
    expect(differenceOf(digest(['id', 'price'], ...rows), ofGreen, 'SELECT * FROM t ORDER BY price')).toEqual({
      kind: 'order',
      columns,
    });
  });
});
