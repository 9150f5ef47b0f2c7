import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { expect } from 'vitest';
import type { Verdict } from '../../activities/stage-verdict.js';
import { trafficActivities } from '../../activities/traffic.js';
import type { Plan } from '../../src/plan/schema.js';
import { Sides, until } from '../router/sides.js';
import type { StageSources } from './stage-sources.js';

/** Stages as a worker opens and judges them. */
export class StageByActivities {
  private constructor(
    private readonly sources: StageSources,
    readonly sides: Sides,
  ) {}

  static async create(sources: StageSources, purpose: string): Promise<StageByActivities> {
    return new StageByActivities(sources, await (await Sides.create(purpose)).claim());
  }

  act<T>(
    plan: Plan,
    what: (all: ReturnType<typeof trafficActivities>, ref: { plan: Plan; runId: string }) => Promise<T>,
  ): Promise<T> {
    const environment = {
      ...this.sources.variables,
      VERDIGRIS_CONNECTION_B: this.sides.blue.uri,
      VERDIGRIS_CONNECTION_G: this.sides.green.uri,
    };
    const activities = trafficActivities({
      environment,
      redact: (text) => text,
      patience: { lookMs: 20_000, prometheusEveryMs: 1_000 },
    });
    return new MockActivityEnvironment().run(() => what(activities, { plan, runId: 'r' }));
  }

  /** Opens a stage, which the router's page confirms once the route says so. */
  async open(plan: Plan, percent: number): Promise<void> {
    const route = async (): Promise<{ e: number; g: number }> => {
      const [row] = await this.sides.sql<{ e: number; g: number }>(
        'blue',
        'SELECT epoch::int AS e, generation::int AS g FROM verdigris.route',
      );
      if (row === undefined) throw new Error('no route');
      return row;
    };
    const before = await route();
    await this.sources.router.follows(before.e, before.g);
    let isOpen = false;
    const opening = this.act(plan, (all, ref) => all.openStage(ref, { percent, for: '0s' })).then((opened) => {
      isOpen = true;
      return opened;
    });
    await until(async () => (await route()).g > before.g);
    await sleep(150);
    // The page still shows the route of before.
    expect(isOpen).toBe(false);
    const { e, g } = await route();
    await this.sources.router.follows(e, g);
    expect(await opening).toEqual({ routers: 1 });
  }

  async judged(plan: Plan, percent: number): Promise<Verdict> {
    return this.act(plan, (all, ref) => all.judgeStage(ref, { percent, for: '0s' }));
  }
}
