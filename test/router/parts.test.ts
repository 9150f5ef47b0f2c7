import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { Breaker } from '../../src/router/breaker.js';
import { Coalesced } from '../../src/router/coalesced.js';
import { createRouter } from '../../src/router/create-router.js';
import { formatLsn, parseLsn, type Lsn } from '../../src/router/lsn.js';
import { formatToken, parseToken } from '../../src/router/token.js';
import { TokenStore } from '../../src/router/token-store.js';
import { pause } from './sides.js';

function lsn(n: number): Lsn {
  return BigInt(n) as Lsn;
}

describe('options of plain JavaScript', () => {
  const create = createRouter as (options?: unknown) => unknown;
  const blue = { host: 'blue.example' };

  test.each([
    [undefined, 'give "migration", the "name" of the plan'],
    [{ blue, green: blue }, 'give "migration"'],
    [{ migration: 7, blue, green: blue }, 'give "migration"'],
    [{ migration: 'x' }, 'blue is missing: give "blue" as pg.Pool takes it'],
    [{ migration: 'x', blue, green: null }, 'green is missing'],
    [{ migration: 'x', blue: 'postgresql://blue.example/shop', green: blue }, 'blue is a text: give "blue" as'],
  ])('%j are refused in words, without the values', (options, says) => {
    expect(() => create(options)).toThrow(RangeError);
    expect(() => create(options)).toThrow(says);
    expect(() => create(options)).not.toThrow('example');
  });
});

describe('the store of tokens', () => {
  test('keeps the highest position of a user, and a later epoch above all', () => {
    const store = new TokenStore(10);
    store.record('u', { epoch: 1, lsn: lsn(5) });
    store.record('u', { epoch: 1, lsn: lsn(3) });
    expect(store.get('u')).toEqual({ epoch: 1, lsn: 5n });
    store.record('u', { epoch: 2, lsn: lsn(0) });
    store.record('u', { epoch: 1, lsn: lsn(9) });
    expect(store.get('u')).toEqual({ epoch: 2, lsn: 0n });
  });

  test('is bounded: whoever was not seen longest is pushed out', () => {
    const store = new TokenStore(2);
    store.record('a', { epoch: 1, lsn: lsn(1) });
    store.record('b', { epoch: 1, lsn: lsn(1) });
    store.get('a');
    store.record('c', { epoch: 1, lsn: lsn(1) });
    expect(store.size).toBe(2);
    expect(store.get('b')).toBeUndefined();
    expect(store.get('a')).toBeDefined();
  });

  test('a write that may not be flushed is remembered for 30 s, even for a user who was pushed out', () => {
    let now = 0;
    const store = new TokenStore(1, () => now);
    store.recordUnknown('a', 1);
    expect([store.isUnknown('a'), store.isUnknown('b')]).toEqual([true, false]);
    store.record('b', { epoch: 1, lsn: lsn(1) });
    expect([store.isUnknown('a'), store.isUnknown('b')]).toEqual([true, false]);
    now = 30_001;
    expect(store.isUnknown('a')).toBe(false);
  });

  test('says to another process that no position covers a write, once', () => {
    let now = 0;
    const [writer, reader] = [new TokenStore(10, () => now), new TokenStore(10, () => now)];
    reader.record('u', { epoch: 1, lsn: lsn(7) });
    writer.recordUnknown('u', 1);
    const exported = parseToken(formatToken(writer.toExport('u') ?? { epoch: 0, lsn: lsn(0) }));
    if (exported === undefined) throw new Error('it is a token');
    reader.import('u', exported);
    expect([reader.isUnknown('u'), reader.get('u')]).toEqual([true, undefined]);
    expect(reader.toExport('u')).toEqual(exported);
    // An older position must not hide it, neither before nor after.
    reader.import('u', { epoch: 1, lsn: lsn(7) });
    now = 30_001;
    reader.import('u', exported);
    reader.import('u', { epoch: 1, lsn: lsn(7) });
    expect([reader.isUnknown('u'), reader.get('u')]).toEqual([false, undefined]);
    reader.record('u', { epoch: 1, lsn: lsn(9) });
    reader.import('u', exported);
    expect([reader.isUnknown('u'), reader.get('u')]).toEqual([false, { epoch: 1, lsn: 9n }]);
  });

  test('says so of a user who was pushed out, too, whatever older position the other process has', () => {
    const [writer, reader] = [new TokenStore(1), new TokenStore(10)];
    reader.record('u', { epoch: 5, lsn: lsn(7) });
    writer.recordUnknown('u', 5);
    writer.record('v', { epoch: 5, lsn: lsn(8) });
    const exported = writer.toExport('u');
    if (exported !== undefined) reader.import('u', exported);
    expect([reader.isUnknown('u'), reader.get('u')]).toEqual([true, undefined]);
  });

  test('a write without a position makes an older token void', () => {
    const store = new TokenStore(10);
    store.record('u', { epoch: 1, lsn: lsn(1) });
    store.forget('u');
    expect(store.get('u')).toBeUndefined();
  });
});

test('positions and tokens are read back as they were written', () => {
  expect(formatLsn(parseLsn('16/B374D848') ?? lsn(0))).toBe('16/B374D848');
  fc.assert(
    fc.property(
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      fc.integer({ min: 0, max: 2 ** 40 }),
      (position, epoch) => {
        const token = { epoch, lsn: position as Lsn };
        expect(parseToken(formatToken(token))).toEqual(token);
      },
    ),
  );
});

test('the breaker opens after three failures in a row, for longer each time, and one success closes it', () => {
  let now = 0;
  const breaker = new Breaker(() => now);
  breaker.failed();
  breaker.failed();
  breaker.succeeded();
  breaker.failed();
  breaker.failed();
  expect(breaker.isOpen).toBe(false);
  breaker.failed();
  expect(breaker.isOpen).toBe(true);
  now = 1_001;
  expect(breaker.isOpen).toBe(false);
  breaker.failed();
  now = 2_500;
  expect(breaker.isOpen).toBe(true);
  breaker.succeeded();
  expect(breaker.isOpen).toBe(false);
});

test('a clock that is set back by an hour makes nobody wait for an hour', () => {
  vi.useFakeTimers({ toFake: ['Date', 'performance'] });
  try {
    const [breaker, store] = [new Breaker(), new TokenStore(1)];
    for (let i = 0; i < 3; i++) breaker.failed();
    store.recordUnknown('u', 1);
    vi.setSystemTime(Date.now() - 3_600_000);
    expect([breaker.isOpen, store.isUnknown('u')]).toEqual([true, true]);
    vi.advanceTimersByTime(30_001);
    expect([breaker.isOpen, store.isUnknown('u')]).toEqual([false, false]);
  } finally {
    vi.useRealTimers();
  }
});

test('one question answers all who asked before it was sent, and nobody who asked after', async () => {
  let sent = 0;
  const question = new Coalesced(async () => {
    sent += 1;
    const answer = sent;
    await pause(10);
    return answer;
  });
  const early = [question.ask(), question.ask()];
  await pause(2);
  const late = [question.ask(), question.ask()];
  expect(await Promise.all([...early, ...late])).toEqual([1, 1, 2, 2]);
  expect(sent).toBe(2);
});
