import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { gaveWay, describeEncounter, LockWatch, type LockWatchOptions } from '../../src/postgres/lock-watch.js';
import type { Session } from '../../src/postgres/session.js';

/* What no server does when it is told to: sessions that can't be opened, and looks that are lost, in this order. */

const WAITS = { pid: 7, application: 'shop', user: 'shop', kind: 'client backend', ageSeconds: 3, statementSeconds: 3 };

class Server {
  readonly canceled: number[] = [];
  opened = 0;
  /** The statement of ours that holds the others up. */
  #end: (error: Error) => void = () => undefined;

  constructor(private readonly behaves: (opened: number) => 'refuses' | 'loses looks' | 'answers') {}

  readonly connect = (): Promise<Session> => {
    const how = this.behaves(++this.opened);
    if (how === 'refuses') return Promise.reject(Object.assign(new Error('to 10.0.0.7'), { code: '53300' }));
    const query = (asked: string | { text: string }, values: unknown[]): Promise<unknown> => {
      const sql = typeof asked === 'string' ? asked : asked.text;
      if (sql.includes('pg_cancel_backend')) {
        this.canceled.push(values[0] as number);
        this.#end(Object.assign(new Error('canceled'), { code: '57014' }));
        return Promise.resolve({ rows: [] });
      }
      if (how === 'loses looks') return Promise.reject(Object.assign(new Error('cut'), { code: 'ECONNRESET' }));
      const isHeldUp = sql.includes('waitSeconds');
      return Promise.resolve({ rows: isHeldUp ? [{ ...WAITS, statement: 'SELECT', waitSeconds: 2.1 }] : [] });
    };
    return Promise.resolve({ query, end: () => Promise.resolve() } as unknown as Session);
  };

  /** Runs until somebody cancels it; a second one is given up by the test. */
  watch(more: Partial<LockWatchOptions> = {}, forMs = 5_000): ReturnType<LockWatch['during']> {
    const watch = new LockWatch({ connect: this.connect, ours: { pid: 42 }, maxBlindMs: 600, ...more });
    return watch.during(() =>
      Promise.race([
        new Promise<never>((_, reject) => (this.#end = reject)),
        sleep(forMs).then(() => Promise.reject(new Error('nobody has stopped it'))),
      ]),
    );
  }
}

// Each has a server of its own, and most of it is waiting.
describe.concurrent('the watch of our locks', () => {
  it.each(['refuses', 'loses looks'] as const)(
    'goes on when its first session %s, and stops ours as soon as it sees who waits',
    async (first) => {
      const server = new Server((opened) => (opened === 1 ? first : 'answers'));
      const { result, met } = await server.watch();
      expect(server.canceled).toEqual([42]);
      expect(met.heldUp).toHaveLength(1);
      expect(met.unseen).toBeUndefined();
      expect(gaveWay((result as PromiseRejectedResult).reason, met)).toBe(true);
    },
  );

  it('stops ours by a session of its own when it has seen nothing for too long', async () => {
    const server = new Server(() => 'loses looks');
    const { result, met } = await server.watch();
    expect(server.canceled).toEqual([42]);
    expect(gaveWay((result as PromiseRejectedResult).reason, met)).toBe(true);
    expect(describeEncounter(met)).toMatch(
      /^for 0\.\d s nobody could look on \(ECONNRESET\), so it was stopped|^for 1\.\d s/,
    );
  });

  it('says that it could not when no session can be had, without an address', async () => {
    const { result, met } = await new Server(() => 'refuses').watch({}, 1_500);
    expect(gaveWay((result as PromiseRejectedResult).reason, met)).toBe(false);
    expect(describeEncounter(met)).toMatch(
      /nobody could look on \(53300\), so it was to be, and could not be, stopped/,
    );
  });

  it('lets what nobody waits for go on unseen', async () => {
    const server = new Server(() => 'loses looks');
    const { met } = await server.watch({ maxBlockingMs: null }, 1_500);
    expect(server.canceled).toEqual([]);
    expect(met.unseen).toBeUndefined();
  });
});
