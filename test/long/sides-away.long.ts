import { afterEach, expect, it } from 'vitest';
import { startPostgres } from '../../src/embedded/postgres-server.js';
import { FaultRun } from '../support/fault-run.js';
import { NoticeReceiver } from '../support/notice-receiver.js';

/*
 * A run waits for an approval, perhaps until Monday: nothing of it fails when a side goes away then. Whoever is responsible
 * hears of it all the same, and when it is over.
 */

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
}, 300_000);

it(
  'that green or a network is away while an approval is waited for is told, and that it is back',
  { timeout: 900_000 },
  async () => {
    const settings = { fsync: 'off', full_page_writes: 'off' };
    const green = await startPostgres({ version: 18, settings, name: 'away-green' });
    open.push(() => green.stop());
    const receiver = await NoticeReceiver.start();
    const run = await FaultRun.create({
      purpose: 'sides away',
      green,
      environment: { VERDIGRIS_CONNECTION_HOOK: receiver.url },
      plan: {
        traffic: {
          stages: [{ percent: 100, for: '1s' }],
          gates: [{ metric: 'lag', max: '10s' }],
          approval: { before: ['promote'] },
        },
        notify: [{ connection: 'hook', events: ['alarm'] }],
      },
    });
    open.push(() => run.close());
    await run.start();
    await run.watch('asked for the promotion', (s) => s.waiting?.gate === 'promote');

    /** Undefined while the worker does not say. */
    const alarm = async (): Promise<string | undefined> => {
      const status = await run.look();
      return status && (status.alarms?.find(({ about }) => about === 'feed')?.state ?? 'none');
    };
    // 45 s for each, and 25 s until all has been well for long enough: one gives way to the next, so that this is waited for once.
    const isTold = (state: string): Promise<void> =>
      expect.poll(alarm, { timeout: 150_000, interval: 500 }).toBe(state);
    const cut = (name: 'worker-blue' | 'blue-green'): void => run.links[name].forEach((proxy) => proxy.refuse());
    const restore = (name: 'worker-blue' | 'blue-green'): void => run.links[name].forEach((proxy) => proxy.restore());

    green.kill('SIGKILL');
    await isTold('greenAway');
    cut('blue-green');
    await green.restart();
    await isTold('notFollowing');
    cut('worker-blue');
    restore('blue-green');
    await isTold('blueAway');
    restore('worker-blue');
    await isTold('none');

    // The gates of the stage that has passed say nothing meanwhile either, which is told beside it.
    const told = (): string[] =>
      [...new Set(receiver.requests.map(({ body }) => (JSON.parse(body) as { text: string }).text))].filter(
        (text) => !/stage 100 % has passed, but its gates/.test(text),
      );
    // What the status says is sent right after.
    await expect.poll(() => told().length, { timeout: 30_000 }).toBeGreaterThanOrEqual(4);
    expect(told()).toEqual([
      expect.stringMatching(/^the worker can't reach green: .*Next step: bring green back/s),
      expect.stringMatching(/^green does not follow blue: nobody there reads \S+\. Next step: see green's log/),
      expect.stringMatching(/^the worker can't reach blue, which has the writes: /),
      expect.stringMatching(/^over: the worker can't reach blue/),
    ]);
    const { waiting, phase } = (await run.look()) ?? {};
    expect([phase, waiting?.gate]).toEqual(['promote', 'promote']);
    await run.inStandby();
    expect(await run.audit('green', 'follows')).toEqual([]);
  },
);
