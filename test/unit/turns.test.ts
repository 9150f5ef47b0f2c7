import { describe, expect, it } from 'vitest';
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
});
