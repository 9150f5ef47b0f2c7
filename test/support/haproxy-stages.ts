import { MockActivityEnvironment } from '@temporalio/testing';
import type pg from 'pg';
import { expect } from 'vitest';
import { trafficActivities } from '../../activities/traffic.js';
import { planSchema, type Plan, type PlanInput } from '../../src/plan/schema.js';
import { MIGRATION, Sides } from '../router/sides.js';
import { configOf, TestHaproxy } from './haproxy.js';
import { createReaderRole, type ReaderRole } from './reader-role.js';

type Activities = ReturnType<typeof trafficActivities>;

const stageOf = (percent: number): { percent: number; for: string } => ({ percent, for: '1s' });

/** Two HAProxies in front of blue and green, and the activities that lead reads through them. */
export class HaproxyStages {
  /** What the worker has in its environment. */
  environment: Record<string, string>;
  readonly #closing: (() => Promise<void>)[] = [];

  private constructor(
    readonly sides: Sides,
    /** How an application logs in: the same on both sides. */
    private readonly role: ReaderRole,
    readonly haproxies: readonly TestHaproxy[],
  ) {
    this.environment = {
      VERDIGRIS_CONNECTION_B: sides.blue.uri,
      VERDIGRIS_CONNECTION_G: sides.green.uri,
      VERDIGRIS_CONNECTION_HAPROXY_1: this.one(0).uri,
      VERDIGRIS_CONNECTION_HAPROXY_2: this.one(1).uri,
    };
  }

  static async create(purpose: string): Promise<HaproxyStages> {
    const sides = await (await Sides.create(purpose)).claim();
    const role = await createReaderRole();
    const config = configOf({ blue: sides.blue.port, green: sides.green.port });
    return new HaproxyStages(sides, role, [await TestHaproxy.start(config), await TestHaproxy.start(config)]);
  }

  get reader(): pg.ClientConfig {
    return this.role.config;
  }

  closeLater(close: () => Promise<void>): void {
    this.#closing.push(close);
  }

  /** After a test: closes what it has opened, and everything is as before it. */
  async reset(): Promise<void> {
    for (const close of this.#closing.splice(0).reverse()) await close();
    for (const haproxy of this.haproxies) await haproxy.restart();
    await this.sides.reset();
  }

  async drop(): Promise<void> {
    await Promise.all(this.haproxies.map((haproxy) => haproxy.stop()));
    await this.role.drop();
    await this.sides.drop();
  }

  one(i: number): TestHaproxy {
    const haproxy = this.haproxies[i];
    if (haproxy === undefined) throw new Error(`there is no HAProxy ${i}`);
    return haproxy;
  }

  planInput(haproxy: Partial<NonNullable<NonNullable<PlanInput['traffic']>['haproxy']>> = {}): PlanInput {
    return {
      ...{ name: MIGRATION, blue: { connection: 'b' }, green: { connection: 'g' } },
      traffic: {
        gates: [{ metric: 'longTransactions', max: '1h' }],
        maxStageDuration: '2s',
        haproxy: { backend: 'reads', instances: ['haproxy_1', 'haproxy_2'], ...haproxy },
      },
    };
  }

  planWith(haproxy = {}): Plan {
    return planSchema.parse(this.planInput(haproxy));
  }

  act<T>(
    plan: Plan,
    what: (activities: Activities, ref: { plan: Plan; runId: string }) => Promise<T>,
    context = new MockActivityEnvironment(),
  ): Promise<T> {
    const activities = trafficActivities({
      ...{ environment: this.environment, redact: (text: string) => text },
      patience: { confirmMs: 3_000, lookMs: 8_000 },
    });
    return context.run(() => what(activities, { plan, runId: 'r' }));
  }

  /** Opens a stage, and counts where 200 new connections of each HAProxy are led. */
  async givesItsShare(percent: number): Promise<void> {
    await this.openStage(this.planWith(), percent);
    for (const { blue, green } of await Promise.all(this.haproxies.map((one) => one.shares(this.reader, 200)))) {
      expect(blue + green).toBe(200);
      if (percent === 0 || percent === 100) expect(green).toBe(percent * 2);
      // HAProxy takes turns: one round of all weights is 200 connections, and may begin anywhere.
      else expect(Math.abs(green - percent * 2)).toBeLessThanOrEqual(1);
    }
  }

  openStage(plan: Plan, percent: number): Promise<{ routers: number }> {
    return this.act(plan, (activities, ref) => activities.openStage(ref, stageOf(percent)));
  }

  judgeStage(plan: Plan, percent: number): ReturnType<Activities['judgeStage']> {
    return this.act(plan, (activities, ref) => activities.judgeStage(ref, stageOf(percent)));
  }

  readsToBlue(plan: Plan): ReturnType<Activities['readsToBlue']> {
    return this.act(plan, (activities, ref) => activities.readsToBlue(ref));
  }

  /** The watch of a stage, until a gate fails or the context is cancelled. */
  watchGates(
    plan: Plan,
    percent: number,
    context = new MockActivityEnvironment(),
  ): ReturnType<Activities['watchGates']> {
    return this.act(plan, (activities, ref) => activities.watchGates(ref, stageOf(percent)), context);
  }

  async percentInForce(): Promise<number | undefined> {
    const sql = 'SELECT green_read_percent::float8 AS p FROM verdigris.route';
    return (await this.sides.sql<{ p: number }>('blue', sql))[0]?.p;
  }
}
