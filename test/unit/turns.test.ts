import { afterEach, describe, expect, it, vi } from 'vitest';
import { Turns } from '../../src/router/turns.js';

describe('turns for a connection', () => {
  it('are given in order, to so many at a time, and a waiter who leaves loses nobody their place', async () => {
    const turns = new Turns(2);
    const order: string[] = [];
    const caller = (name: string) => {
      const turn = turns.take();
      void turn.granted.then(() => order.push(name));
      return turn;
    };
    const [a, b, c, d, e] = ['a', 'b', 'c', 'd', 'e'].map(caller);
    await Promise.resolve();
    expect(order).toEqual(['a', 'b']);
    c?.giveBack(); // gave up while waiting
    a?.giveBack();
    a?.giveBack(); // a second time does nothing
    await Promise.resolve();
    expect(order).toEqual(['a', 'b', 'd']);
    b?.giveBack();
    d?.giveBack();
    e?.giveBack();
    await Promise.resolve();
    caller('f');
    caller('g');
    caller('h');
    await Promise.resolve();
    expect(order).toEqual(['a', 'b', 'd', 'e', 'f', 'g']);
  });

  describe('of a pool that starts slowly', () => {
    afterEach(() => vi.useRealTimers());

    it('are few at first, one more for each that ends, and all of them after a time', async () => {
      vi.useFakeTimers();
      const turns = new Turns(6);
      turns.startSlowly(2, 20);
      const begun: number[] = [];
      const callers = [0, 1, 2, 3, 4, 5, 6].map((n) => {
        const turn = turns.take();
        void turn.granted.then(() => begun.push(n));
        return turn;
      });
      await vi.advanceTimersByTimeAsync(10);
      expect(begun).toEqual([0, 1]);
      callers[0]?.giveBack();
      await vi.advanceTimersByTimeAsync(9);
      expect(begun).toEqual([0, 1, 2, 3]);
      await vi.advanceTimersByTimeAsync(1);
      // Six at a time, of which one has ended.
      expect(begun).toEqual([0, 1, 2, 3, 4, 5, 6]);
    });

    it('are not more than before, however often it starts and whoever has one', async () => {
      vi.useFakeTimers();
      const turns = new Turns(4);
      const held = [turns.takeFree(), turns.takeFree()];
      turns.startSlowly(1, 20);
      turns.startSlowly(1, 20);
      await vi.advanceTimersByTimeAsync(20);
      expect([...held, turns.takeFree(), turns.takeFree(), turns.takeFree()]).toEqual([true, true, true, true, false]);
    });
  });
});
