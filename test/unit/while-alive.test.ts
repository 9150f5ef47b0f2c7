import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { LinkDownError } from '../../src/router/failure.js';
import { WhileAlive, type Awaited } from '../../src/router/while-alive.js';

describe('waiting for a side while it lives', () => {
  let looks = 0;
  let look: () => Promise<void>;
  let alive: WhileAlive;

  beforeEach(() => {
    vi.useFakeTimers();
    looks = 0;
    look = () => Promise.resolve();
    alive = new WhileAlive({
      side: 'green',
      look: () => {
        looks += 1;
        return look();
      },
    });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  const never = new Promise<string>(() => undefined);
  const outcome = (promise: Promise<string>): Promise<unknown> => promise.catch((error: unknown) => error);

  it('gives the outcome of what is quick, and asks nothing', async () => {
    await expect(alive.wait(Promise.resolve('row'))).resolves.toBe('row');
    await expect(alive.wait(Promise.reject(new Error('no such column')))).rejects.toThrow('no such column');
    await vi.advanceTimersByTimeAsync(1_000);
    expect(looks).toBe(0);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('lets what is slow go on as long as the side answers', async () => {
    const slow = alive.wait(sleepFor(2_000));
    await vi.advanceTimersByTimeAsync(1_900);
    expect(looks).toBeGreaterThan(5);
    await vi.advanceTimersByTimeAsync(200);
    await expect(slow).resolves.toBe('late');
  });

  it('gives up what has begun and not ended, and nothing that has', async () => {
    look = () => Promise.reject(new Error('silent'));
    const given: string[] = [];
    const one = (name: string): Awaited => ({ since: 0, giveUp: () => void given.push(name) });
    const [ended, open] = [one('ended'), one('open')];
    alive.begin(ended);
    alive.begin(open);
    alive.end(ended);
    await vi.advanceTimersByTimeAsync(250);
    expect(given).toEqual(['open']);
    await vi.advanceTimersByTimeAsync(250);
    expect(given).toEqual(['open']);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('gives up within 250 ms when the side is silent, but not what came after the question', async () => {
    let answer: (error: Error) => void = () => undefined;
    look = () => new Promise((_, reject) => (answer = reject));
    const first = outcome(alive.wait(never));
    await vi.advanceTimersByTimeAsync(250);
    expect(looks).toBe(1);
    let isOver = false;
    void outcome(alive.wait(never)).then(() => (isOver = true));
    answer(new Error('silent'));
    expect(await first).toBeInstanceOf(LinkDownError);
    await vi.advanceTimersByTimeAsync(100);
    expect(isOver).toBe(false);
    await vi.advanceTimersByTimeAsync(200);
    answer(new Error('silent'));
    await vi.advanceTimersByTimeAsync(0);
    expect(isOver).toBe(true);
  });

  function sleepFor(ms: number): Promise<string> {
    return new Promise((resolve) => setTimeout(() => resolve('late'), ms));
  }
});
