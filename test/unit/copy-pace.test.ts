import { describe, expect, it } from 'vitest';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import { openPace, type Before, type Pace } from '../../src/postgres/bootstrap/copy/pace.js';
import { RateControl, type Look } from '../../src/postgres/bootstrap/copy/rate-control.js';
import { RateLimit } from '../../src/postgres/bootstrap/copy/rate-limit.js';

const MB = 2 ** 20;
const QUIET: Look = { transactionsPerSecond: 0, activeSessions: 0, answerMs: 0.5, bytesPerSecond: 200 * MB };

function busy(answerMs: number, bytesPerSecond: number): Look {
  return { transactionsPerSecond: 500, activeSessions: 2, answerMs, bytesPerSecond };
}

describe('the pace of a copy', () => {
  it('is not limited while blue is quiet, however slowly it answers', () => {
    const control = new RateControl({ usualAnswerMs: 0.5 });
    for (let i = 0; i < 20; i++) control.look({ ...QUIET, answerMs: 50 });
    expect(control.bytesPerSecond).toBe(Number.POSITIVE_INFINITY);
  });

  it('is not limited for one query that is met once', () => {
    const control = new RateControl({ usualAnswerMs: 0.5 });
    for (let i = 0; i < 20; i++) control.look({ ...QUIET, activeSessions: i % 5 === 0 ? 1 : 0 });
    expect(control.bytesPerSecond).toBe(Number.POSITIVE_INFINITY);
  });

  it('is halved while blue answers more slowly than before, and rises step by step while it does not', () => {
    const control = new RateControl({ usualAnswerMs: 0.5 });
    control.look(busy(0.5, 200 * MB));
    const first = control.bytesPerSecond;
    expect(first).toBeLessThan(50 * MB);
    control.look(busy(5, first));
    expect(control.bytesPerSecond).toBe(first / 2);
    control.look(busy(0.5, first / 2));
    expect(control.bytesPerSecond).toBeGreaterThan(first / 2);
    expect(control.bytesPerSecond).toBeLessThan(first);
    for (let i = 0; i < 50; i++) control.look(busy(50, control.bytesPerSecond));
    expect(control.bytesPerSecond).toBeGreaterThan(MB);
  });

  it('is free again when blue has been quiet for a while', () => {
    const control = new RateControl({ usualAnswerMs: 0.5 });
    control.look(busy(5, 100 * MB));
    control.look(QUIET);
    expect(control.bytesPerSecond).toBeLessThan(100 * MB);
    for (let i = 0; i < 20; i++) control.look(QUIET);
    expect(control.bytesPerSecond).toBe(Number.POSITIVE_INFINITY);
  });
});

describe('the pace of a copy that begins', () => {
  it('is slow from its first byte where others were at work, and free soon where they were not any more', () => {
    const control = new RateControl({ usualAnswerMs: 0.5, othersWork: true });
    expect(control.bytesPerSecond).toBeLessThan(50 * MB);
    for (let i = 0; i < 20; i++) control.look(QUIET);
    expect(control.bytesPerSecond).toBe(Number.POSITIVE_INFINITY);
    expect(new RateControl({ usualAnswerMs: 0.5, othersWork: false }).bytesPerSecond).toBe(Number.POSITIVE_INFINITY);
  });
});

describe('a parcel', () => {
  const NOWHERE = { side: 'blue', connection: 'blue', config: {}, peerConninfo: '' } as const;
  let run = 0;

  /** Of parcels of one run, by a limit of the plan: nobody looks at blue. */
  function pacesOf(maxRate: string | undefined, parcels: number, before: Before = {}): Pace[] {
    const bootstrap: PlanInput['bootstrap'] = {
      method: 'copy',
      parallel: 4,
      pace: 'full',
      ...(maxRate && { maxRate }),
    };
    const plan = planSchema.parse({
      name: 'pace',
      blue: { connection: 'blue' },
      green: { connection: 'green' },
      bootstrap,
    });
    const runId = `run ${(run += 1)}`;
    return Array.from({ length: parcels }, () => openPace(runId, NOWHERE, plan.bootstrap, before));
  }

  /** The times between the beginnings of parcels that want to begin at once, ms. */
  async function apart(paces: readonly Pace[]): Promise<number[]> {
    const begun: number[] = [];
    const { signal } = new AbortController();
    await Promise.all(paces.map((pace) => pace.begin(signal).then(() => begun.push(performance.now()))));
    return begun.slice(1).map((at, i) => at - (begun[i] ?? at));
  }

  it('does not begin together with others while the copy is slowed down', async () => {
    const paces = pacesOf('20MB', 4);
    for (const ms of await apart(paces)) expect(ms).toBeGreaterThan(50);
    for (const pace of paces) pace.close();
  });

  it('begins at once where nothing slows the copy down', async () => {
    const paces = pacesOf(undefined, 4);
    for (const ms of await apart(paces)) expect(ms).toBeLessThan(20);
    for (const pace of paces) pace.close();
  });

  it('asks blue for little at a time while it is slowed down, and for more where each answer is long on its way', () => {
    const atATime = (maxRate: string | undefined, usualAnswerMs: number): number => {
      const paces = pacesOf(maxRate, 4, { usualAnswerMs });
      const bytes = paces[0]?.bytesAtATime() ?? 0;
      for (const pace of paces) pace.close();
      return bytes / 1_024;
    };
    expect(atATime('8MB', 0.2)).toBe(32);
    expect(atATime('64MB', 0.2)).toBeLessThan(160);
    expect(atATime('8MB', 10)).toBeGreaterThan(90);
    expect(atATime('8MB', 200)).toBe(128);
    expect(atATime(undefined, 0.2)).toBe(64 * 1_024);
  });

  it('asks for more at a time where the statements take long, also because of green, and not for one that does', () => {
    const paces = pacesOf('8MB', 4, { usualAnswerMs: 0.2 });
    const afterwards = (...took: readonly number[]): number => {
      took.forEach((ms, i) => paces[i % 4]?.took(ms));
      return (paces[0]?.bytesAtATime() ?? 0) / 1_024;
    };
    expect(afterwards(1.5, 1.5, 300, 1.5)).toBe(32);
    expect(afterwards(...Array.from({ length: 10 }, (_, i) => 20 + i))).toBe(128);
    expect(afterwards(1.5)).toBe(32);
    for (const pace of paces) pace.close();
  });
});

describe('a rate limit', () => {
  it('lets so many bytes pass a second, whatever the size of the buffers', () => {
    for (const size of [1_000, 64_000, 3 * MB]) {
      const limit = new RateLimit(10 * MB);
      let now = 0;
      let bytes = 0;
      while (now < 10_000) {
        bytes += size;
        now += limit.after(size, now);
        now += 0.01;
      }
      expect(bytes / (now / 1_000) / MB).toBeGreaterThan(9.5);
      expect(bytes / (now / 1_000) / MB).toBeLessThan(10.6);
    }
  });

  it('saves up no more than a moment of what was not used', () => {
    const limit = new RateLimit(10 * MB);
    limit.after(1, 0);
    let waited = 0;
    for (let i = 0; i < 100; i++) waited = limit.after(64_000, 60_000);
    expect(waited).toBeGreaterThan(500);
  });

  it('does not hold anything back when there is none', () => {
    expect(new RateLimit(Number.POSITIVE_INFINITY).after(1e12)).toBe(0);
  });
});
