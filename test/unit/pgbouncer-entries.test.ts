import { describe, expect, it } from 'vitest';
import { EntryFile } from '../../src/pgbouncer/entry.js';
import type { ShownDatabase } from '../../src/pgbouncer/console.js';
import type { Fallback } from '../../src/pgbouncer/instance.js';
import { leftBehind } from '../../src/pgbouncer/left-behind.js';
import { markValue, parseMark } from '../../src/pgbouncer/mark.js';
import { preparedObstacles } from '../../src/pgbouncer/prepared.js';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';

const FILE = `; who looks after this: the shop team
[databases]
orders = host=blue.internal port=5432 dbname=shop pool_size=20 connect_query='SELECT ''hello'''
  "odd name" = host=blue.internal dbname=shop ; not a comment, PgBouncer has none here
orders_blue = host=blue.internal port=5432 dbname=shop pool_size=1
orders_green = host='green host' port = 6543
forced = host=blue.internal dbname=shop user=app password='it''s'

[users]
orders = pool_mode=session
`;

describe('entries of PgBouncer', () => {
  it('lead where another one does, and keep everything else of their line', () => {
    const file = new EntryFile(FILE);
    file.point('orders', 'orders_green');
    expect(file.toString()).toBe(
      FILE.replace(
        "orders = host=blue.internal port=5432 dbname=shop pool_size=20 connect_query='SELECT ''hello'''",
        // Without a dbname an entry leads to the database of its own name.
        "orders = host='green host' port=6543 dbname=orders_green pool_size=20 connect_query='SELECT ''hello'''",
      ),
    );
  });

  it('are as before when they have been there and back', () => {
    const file = new EntryFile(FILE);
    file.point('orders', 'orders_green');
    file.point('orders', 'orders_blue');
    expect(file.toString()).toBe(FILE);
  });

  it('keep the user that they force, unless the other one forces another', () => {
    const file = new EntryFile(FILE);
    file.point('forced', 'orders_blue');
    expect(file.parameter('forced', 'user')).toBe('app');
    expect(file.parameter('forced', 'password')).toBe("it's");
    file.set('orders_green', 'host=g user=other password=x');
    file.point('forced', 'orders_green');
    expect(file.parameter('forced', 'user')).toBe('other');
  });

  it('may have odd names', () => {
    const file = new EntryFile('"odd name" = host=a\n"odd name blue" = host=b\n');
    file.point('odd name', 'odd name blue');
    expect(file.toString()).toBe(`"odd name" = host=b dbname='odd name blue'\n"odd name blue" = host=b\n`);
  });

  it('are put into their section when they are new', () => {
    const file = new EntryFile(FILE);
    file.set('verdigris_shop', 'host=x');
    expect(file.toString()).toBe(`${FILE}[databases]\nverdigris_shop = host=x\n`);
    const plain = new EntryFile('a = host=b\n');
    plain.set('verdigris_shop', 'host=x');
    plain.set('verdigris_shop', 'host=y');
    expect(plain.toString()).toBe('a = host=b\nverdigris_shop = host=y\n');
  });

  it('that are not there, or not readable, are refused without a word of what they hold', () => {
    const file = new EntryFile('a = host=b\nc = host=b password secret\n');
    expect(() => file.point('a', 'nothing')).toThrow('it has no entry "nothing"');
    expect(() => file.point('c', 'a')).toThrow(/^an entry is not of the form/);
  });

  it('carry a mark that can be read back', () => {
    const settled = { epoch: 1795397953, side: 'green', state: 'settled' } as const;
    const moving = { ...settled, state: 'moving', token: '1a2b3c4d' } as const;
    // The last but one is of an earlier version.
    for (const mark of [settled, moving, { ...settled, state: 'moving' } as const, { ...moving, overtaken: true }]) {
      const file = new EntryFile('');
      file.set('verdigris_shop', markValue(mark));
      expect(parseMark(file.parameter('verdigris_shop', 'dbname'))).toEqual(mark);
    }
    // PgBouncer takes no longer names.
    const longest = { epoch: Number.MAX_SAFE_INTEGER, side: 'green', state: 'moving', token: '1a2b3c4d' } as const;
    expect(/dbname=(.*)/.exec(markValue({ ...longest, overtaken: true }))?.[1]?.length).toBeLessThan(64);
    expect(parseMark('postgres')).toBeUndefined();
  });
});

describe('entries that are left behind when the writes move', () => {
  const setup = {
    ...{ migration: 'm', instances: [], pauseTimeoutMs: 1_000 },
    ...{ databases: ['orders'], aliases: { blue: 'orders_blue', green: 'orders_green' } },
  };
  const row = (name: string, host: string | null, database: string, port = 5432): ShownDatabase => ({
    ...{ name, host, port, database },
    ...{ forcedUser: null, paused: false, poolSize: 20, reservePool: 0, maxConnections: 0 },
  });
  const shown = [
    ...[row('orders', 'b', 'shop'), row('orders_blue', 'b', 'shop'), row('orders_green', 'g', 'shop')],
    ...[row('jobs', 'b', 'shop'), row('on_green', 'g', 'shop'), row('other', 'b', 'hr'), row('port', 'b', 'shop', 1)],
    ...[row('socket', null, 'shop'), row('verdigris_m', '127.0.0.1', 'epoch_1_blue_settled', 1)],
  ];

  it('are those that lead to the side that has them, but for those of the plan', () => {
    expect(leftBehind(setup, 'blue', shown, undefined)).toEqual(['jobs']);
    expect(leftBehind(setup, 'green', shown, undefined)).toEqual(['on_green']);
  });

  it('include * where it may lead there', () => {
    const any = (fallback: Fallback, rows = shown): boolean => leftBehind(setup, 'blue', rows, fallback).includes('*');
    expect(any({ host: 'b', port: 5432, database: undefined })).toBe(true);
    expect(any({ host: 'b', port: 5432, database: 'shop' })).toBe(true);
    expect(any({ host: 'b', port: 5432, database: 'hr' })).toBe(false);
    expect(any({ host: 'g', port: 5432, database: undefined })).toBe(false);
    expect(any({ host: 'b', port: 6432, database: undefined })).toBe(false);
    // Who names that database comes by its entry.
    expect(any({ host: 'b', port: 5432, database: undefined }, [...shown, row('shop', 'g', 'shop')])).toBe(false);
  });
});

describe('statements that clients have prepared', () => {
  it('are warned of where PgBouncer keeps them and the plan gives columns to tables', async () => {
    const add = { addColumn: { table: 'orders', column: 'cents', type: 'bigint', up: '0' } };
    const index = { createIndex: { table: 'orders', name: 'by_total', columns: ['total'] } };
    const found = async (most: string | undefined, migrations: PlanInput['migrations']): Promise<string[]> => {
      const settings = new Map(most === undefined ? [] : [['max_prepared_statements', most]]);
      const blue = { connection: 'blue' };
      const plan = planSchema.parse({ version: 1, name: 'prepared', blue, green: { connection: 'green' }, migrations });
      const console = { settings: () => Promise.resolve(settings) };
      const obstacles = await preparedObstacles({ pooler: { connection: 'pool' } }, console, plan);
      return obstacles.map(
        ({ severity, check, message }) => `${severity} ${check} ${message.includes('public.orders')}`,
      );
    };
    expect(await found('200', [add])).toEqual(['warning pgbouncer-prepared true']);
    expect(await found('0', [add])).toEqual([]);
    expect(await found(undefined, [add])).toEqual([]);
    expect(await found('200', [index])).toEqual([]);
  });
});
