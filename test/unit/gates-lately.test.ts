import { describe, expect, test } from 'vitest';
import { decideGate } from '../../src/gates/decide.js';
import { holdOf, latelyAfter, NOTHING_YET, type Lately } from '../../src/gates/lately.js';
import type { RouterSnapshot, RouterSnapshots } from '../../src/gates/router-snapshot.js';
import { windowBetween } from '../../src/gates/window.js';
import { LATENCY_BUCKETS_MS } from '../../src/router/metrics-snapshot.js';

/** What one router has counted so far. */
interface Counted {
  blue: number;
  green: number;
  errors: number;
  fallbacks: number;
}

/** What a router adds within a second. */
type Adds = Partial<Counted>;

function snapshot(instance: string, ageSeconds: number, { blue, green, errors, fallbacks }: Counted): RouterSnapshot {
  const side = (requests: number, failed: number) => ({
    requests,
    errors: failed,
    latency: [requests, ...LATENCY_BUCKETS_MS.map(() => 0)],
  });
  return {
    ...{ instance, epoch: 1, generation: 1, ageSeconds },
    metrics: {
      reads: { blue: side(blue, 0), green: side(green, errors) },
      writes: { blue: side(0, 0), green: side(0, 0) },
      ...{ fallbacks: { behind: 0, error: fallbacks }, retriedWrites: 0 },
    },
  };
}

/** A stage of routers that are looked at every second, in slices of five seconds as by the worker. */
class SimulatedStage {
  readonly #routers = new Map<string, { counted: Counted; seen: number }>();
  readonly #opened: RouterSnapshots;
  #seconds = 0;
  #lately: Lately = NOTHING_YET;
  #from: RouterSnapshots;

  constructor(
    names: readonly string[],
    private readonly atLeast?: number,
  ) {
    for (const name of names) this.#add(name);
    this.#opened = this.#from = this.#sample();
  }

  /** The routers report for so many seconds; others than those named are silent. */
  run(seconds: number, adds: Readonly<Record<string, Adds>>): this {
    for (let second = 0; second < seconds; second++) {
      this.#seconds += 1;
      for (const [name, added] of Object.entries(adds)) {
        const router = this.#routers.get(name) ?? this.#add(name);
        router.seen = this.#seconds;
        for (const key of Object.keys(added) as (keyof Counted)[]) router.counted[key] += added[key] ?? 0;
      }
      const now = this.#sample();
      if (Date.parse(now.at) - Date.parse(this.#from.at) < 5_000) continue;
      this.#lately = latelyAfter(this.#lately, this.#from, now, windowBetween(this.#from, now));
      this.#from = now;
    }
    return this;
  }

  /** The same while no worker looks. */
  unseen(seconds: number, adds: Readonly<Record<string, Adds>>): this {
    const [lately, from] = [this.#lately, this.#from];
    this.run(seconds, adds);
    [this.#lately, this.#from] = [lately, from];
    return this;
  }

  /** What keeps the stage from passing. */
  get hold(): string | undefined {
    const [now, from] = [this.#sample(), this.#from];
    const lately = latelyAfter(this.#lately, from, now, windowBetween(from, now));
    const stored = JSON.parse(JSON.stringify(lately)) as Lately;
    const window = windowBetween(this.#opened, now);
    return holdOf({ lately: stored, window, opened: this.#opened, now, atLeast: this.atLeast });
  }

  /** What the error rate says. */
  get decision(): { outcome: string; because: string } {
    const window = windowBetween(this.#opened, this.#sample());
    return decideGate({ metric: 'errorRate', max: 0.001 }, { window, lagMs: [], hold: this.hold });
  }

  #add(name: string): { counted: Counted; seen: number } {
    const router = { counted: { blue: 0, green: 0, errors: 0, fallbacks: 0 }, seen: this.#seconds };
    this.#routers.set(name, router);
    return router;
  }

  #sample(): RouterSnapshots {
    const all = [...this.#routers].map(([name, { counted, seen }]) =>
      snapshot(name, this.#seconds - seen, structuredClone(counted)),
    );
    return {
      at: new Date(Date.UTC(2026, 10, 1) + this.#seconds * 1_000).toISOString(),
      live: all.filter(({ ageSeconds }) => ageSeconds <= 5),
      stale: all.filter(({ ageSeconds }) => ageSeconds > 5),
      unreadable: [],
    };
  }
}

const GOOD = { blue: 10, green: 10 };
const CUT = { blue: 20, fallbacks: 10 };

describe('a sample that is good and old does not pass a gate', () => {
  test('when green has stopped answering while blue goes on, whoever keeps the reads from it', () => {
    const stage = new SimulatedStage(['a', 'b']).run(600, { a: GOOD, b: GOOD });
    expect(stage.decision.outcome).toBe('pass');
    stage.run(4, { a: { blue: 20 }, b: { blue: 20 } });
    expect(stage.decision).toMatchObject({
      outcome: 'inconclusive',
      because: expect.stringContaining('green is not known to have answered one of the last') as string,
    });
    stage.run(600, { a: { blue: 20 }, b: { blue: 20 } });
    expect(stage.hold).toContain('within 10.1 min');
    expect(stage.run(1, { a: GOOD, b: GOOD }).decision.outcome).toBe('pass');
  });

  test('when what green still gets fails', () => {
    const stage = new SimulatedStage(['a']).run(600, { a: { blue: 90, green: 100 } });
    stage.run(1, { a: { blue: 190, green: 3, errors: 3, fallbacks: 3 } });
    stage.run(9, { a: { blue: 190 } });
    expect(stage.hold).toContain('green is not known to have answered');
  });

  test('when one instance has lost green, though the others have not; until it reaches green again', () => {
    const stage = new SimulatedStage(['a', 'b']).run(600, { a: GOOD, b: GOOD });
    stage.run(60, { a: GOOD, b: { blue: 1 } });
    expect(stage.hold).toBeUndefined();
    stage.run(5, { a: GOOD, b: { ...CUT, fallbacks: 1 } });
    expect(stage.decision).toMatchObject({
      outcome: 'inconclusive',
      because: 'these instances of the application do not reach green, and blue answers in its place: b',
    });
    expect(stage.run(1, { a: GOOD, b: GOOD }).decision.outcome).toBe('pass');
  });

  test('not when reads that failed on green are counted a moment after the fallbacks to blue', () => {
    const stage = new SimulatedStage(['a']).run(600, { a: GOOD });
    stage.run(5, { a: { blue: 1, fallbacks: 1 } });
    stage.run(5, { a: { green: 1, errors: 1 } });
    expect(stage.hold).toBeUndefined();
  });

  test('when the connections to green come and go', () => {
    const stage = new SimulatedStage(['a']).run(600, { a: GOOD });
    stage.run(30, { a: { blue: 12, green: 9, fallbacks: 1 } });
    expect(stage.hold).toContain("blue has just answered 25 of 250 reads of green's users (10 %)");
    expect(stage.run(30, { a: GOOD }).hold).toBeUndefined();
    // Now and then one read: no reason to wait.
    stage.run(1, { a: { ...GOOD, fallbacks: 2 } });
    expect(stage.hold).toBeUndefined();
  });

  test('when nobody reads anything any more, though there was much to read', () => {
    const stage = new SimulatedStage(['a']).run(600, { a: GOOD }).run(115, { a: {} });
    expect(stage.hold).toBeUndefined();
    stage.run(10, { a: {} });
    expect(stage.hold).toContain('nobody has read anything for 2.1 min');
  });

  test('when nobody looked: the reads may be of any moment since', () => {
    const stage = new SimulatedStage(['a']).run(60, { a: GOOD });
    stage.unseen(300, { a: GOOD }).unseen(300, { a: { blue: 20 } });
    expect(stage.hold).toContain('green is not known to have answered one of the last');
    stage.run(1, { a: { blue: 20 } });
    expect(stage.hold).toContain('green is not known to have answered one of the last');
    expect(stage.run(1, { a: GOOD }).hold).toBeUndefined();
  });

  test('but traffic that is small, everywhere and at all times, is no reason to wait', () => {
    const stage = new SimulatedStage(['a', 'b']);
    for (let i = 0; i < 10; i++) {
      stage.run(1, { a: { blue: 9, green: 1 }, b: {} }).run(59, { a: {}, b: {} });
      expect(stage.hold).toBeUndefined();
    }
    stage.run(59, { a: { blue: 1 }, b: {} });
    expect(stage.hold).toBeUndefined();
  });
});

describe('routers that go silent in a stage', () => {
  const names = Array.from({ length: 10 }, (_, i) => `router-${i}`);
  const all = (some: readonly string[]): Record<string, Adds> => Object.fromEntries(some.map((name) => [name, GOOD]));

  test('keep it from passing, by name: they may read on, unseen', () => {
    const stage = new SimulatedStage(names).run(300, all(names)).run(7, all(['router-0']));
    expect(stage.decision.outcome).toBe('inconclusive');
    expect(stage.decision.because).toContain('router-1, router-2, router-3, router-4, router-5 and 4 more');
    expect(stage.run(580, all(['router-0'])).hold).toContain('have gone silent within the last 10 min');
    expect(stage.run(1, all(names)).decision.outcome).toBe('pass');
  });

  test('hold it for ten minutes, as they may have ended well; they are named all the same', () => {
    const stage = new SimulatedStage(names).run(300, all(names)).run(610, all(names.slice(1)));
    expect(stage.decision.outcome).toBe('pass');
    expect(stage.decision.because).toContain('no longer reporting: router-0');
  });

  test('do not hold it where others have taken their place', () => {
    const successors = names.map((name) => `new-${name}`);
    const stage = new SimulatedStage(names).run(300, all(names));
    stage.run(20, all([...names, ...successors])).run(60, all(successors));
    expect(stage.decision.outcome).toBe('pass');
    expect(stage.decision.because).toContain('no longer reporting: router-0, router-1');
    // Successors of long ago stand in for nobody.
    expect(stage.run(1_000, all(successors)).run(10, all(successors.slice(6))).hold).toContain('new-router-0');
  });

  test('hold it by their last life alone where they are killed again and again, each time under another name', () => {
    const stage = new SimulatedStage([...names, 'life-0']).run(60, all([...names, 'life-0']));
    for (let life = 1; life <= 20; life++) {
      // Dead for some seconds, until it is started again.
      stage.run(10, all(names));
      expect(stage.hold).toMatch(new RegExp(`no others have come: life-${life - 1}$`));
      stage.run(50, all([...names, `life-${life}`]));
      expect(stage.hold).toBeUndefined();
    }
    // One of the others is cut off meanwhile: nobody has come for it.
    const nine = names.slice(1);
    stage.run(10, all(nine)).run(50, all([...nine, 'life-21']));
    expect(stage.hold).toContain('no others have come: ');
  });

  test('hold it also when those who came for some that ended well have been cut off together', () => {
    const successors = names.map((name) => `new-${name}`);
    const stage = new SimulatedStage(['one']).run(60, all(['one']));
    stage.run(60, all(['one', ...successors])).run(10, all(['one']));
    expect(stage.hold).toContain('new-router-0');
    // One that came later has come for one of them.
    expect(stage.run(10, all(['one', 'later'])).hold).toContain('new-router-0');
    expect(stage.run(20, all(['one'])).hold).toContain('later');
  });

  test('of which the plan asks for more than there are hold it as long as it is so', () => {
    const stage = new SimulatedStage(names, 10).run(300, all(names)).run(2_000, all(names.slice(1)));
    expect(stage.hold).toBe('9 of at least 10 instances of the application report');
    expect(stage.run(1, all(names)).hold).toBeUndefined();
  });

  test('before it are of no interest', () => {
    const stage = new SimulatedStage(['a']).run(3_000, { b: GOOD });
    expect(stage.hold).toBeUndefined();
    expect(stage.decision.because).toContain('no longer reporting: a');
  });
});
