import type pg from 'pg';
import { expect } from 'vitest';
import { whoIsPrimary } from '../../src/postgres/doctor/who-is-primary.js';
import { measureLag } from '../../src/postgres/marker.js';
import { directionTo } from '../../src/postgres/feed.js';
import { withSession, type Databases, type Session } from '../../src/postgres/session.js';
import { otherSide, type Side } from '../../src/side.js';
import { auditedContents, AUDIT_ROWS, AUDIT_SCHEMA, AUDIT_TABLES, AuditedWriters } from './audited-writers.js';
import { BothOpenWatcher } from './both-open-watcher.js';
import { joinDatabases } from './join-databases.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from './postgres.js';
import { PromotionActor, type MovePoint } from './promotion-actor.js';
import { carryOut, type Move, type Step } from './promotion-steps.js';
import type { When } from './statement-proxy.js';

const TABLES = AUDIT_TABLES.map((name) => ({ schema: 'public', name }));

/** Two databases that follow each other, writers with an audit, and one that watches that never both are open. */
export class PromotionRig {
  primary: Side = 'blue';
  #spare: Promise<PromotionActor> | undefined;

  private constructor(
    private readonly own: readonly TestDatabase[],
    private readonly migration: string,
    readonly databases: Databases,
    readonly writers: AuditedWriters,
    readonly watcher: BothOpenWatcher,
  ) {}

  static async create(purpose: string): Promise<PromotionRig> {
    // Slots share one namespace on a server: two rigs at once need names of their own.
    const migration = purpose.replaceAll(' ', '-');
    const blue = await testDatabase('pg15', `${purpose} blue`);
    const green = await testDatabase('pg18', `${purpose} green`);
    const databases = { blue: asDatabase(blue, 'blue'), green: asDatabase(green, 'green') };
    await withClient(blue.config, (client) => client.query(`${AUDIT_SCHEMA}; ${AUDIT_ROWS}`));
    await withClient(green.config, (client) => client.query(AUDIT_SCHEMA));
    await joinDatabases(databases, migration, TABLES);
    const watcher = await BothOpenWatcher.start(databases, TABLES.length);
    return new PromotionRig(
      [green, blue],
      migration,
      databases,
      await AuditedWriters.start(databases, migration),
      watcher,
    );
  }

  move(from: Side): Move {
    return { databases: this.databases, migration: this.migration, from, tables: TABLES, maxHoldMs: 2_000 };
  }

  /** Does work on a client of a side, as an application. */
  on<T>(side: Side, work: (client: pg.Client) => Promise<T>): Promise<T> {
    return withClient(this.databases[side].config, work);
  }

  /** The same in a session as the project's own code opens it. */
  ours<T>(side: Side, work: (session: Session) => Promise<T>): Promise<T> {
    return withSession(this.databases[side], { purpose: 'test' }, work);
  }

  /** A worker process; the next one is started meanwhile. */
  async actor(): Promise<PromotionActor> {
    const actor = await (this.#spare ?? PromotionActor.start(this.databases));
    this.#spare = PromotionActor.start(this.databases);
    return actor;
  }

  /** Moves the writes with a worker process that nobody disturbs. @returns every point it came by. */
  async record(): Promise<MovePoint[]> {
    const actor = await this.actor();
    const from = this.primary;
    for (const step of ['promote', 'finish'] as const) isDone(await actor.run(step, this.move(from)));
    this.primary = otherSide(from);
    await actor.kill();
    return actor.seen.map((point) => ({ ...point, from }));
  }

  /** Moves the writes with this process. */
  async moveOn(steps: readonly Step[] = ['promote', 'finish']): Promise<void> {
    for (const step of steps) await carryOut(step, this.move(this.primary));
    this.primary = otherSide(this.primary);
  }

  /**
   * A worker is killed, or frozen, at the point; another one brings the move to its end; the frozen one is woken then and
   * goes on with what it was about to do. @returns whether the worker came to the point.
   */
  async fault(fault: 'kill' | 'freeze', point: MovePoint, when: When): Promise<boolean> {
    const actor = await this.actor();
    try {
      const steps: readonly Step[] = point.step === 'promote' ? ['promote', 'finish'] : ['finish'];
      if (point.step === 'finish') isDone(await actor.run('promote', this.move(point.from)));
      const stopped = actor.stopAt(point, when);
      const outcome = actor.run(point.step, this.move(point.from));
      const held = await Promise.race([stopped, outcome]);
      const isHit = typeof held !== 'string';
      if (fault === 'kill') await actor.kill();
      else actor.freeze();
      await this.moveOn(steps);
      if (fault === 'freeze') {
        if (isHit) held.release();
        actor.thaw();
        await outcome;
      }
      return isHit;
    } finally {
      await actor.kill();
    }
  }

  /** What must be so after every move, whatever went wrong in it. */
  async audit(): Promise<void> {
    await this.writers.pause();
    try {
      expect(this.writers.failures.splice(0)).toEqual([]);
      expect(this.writers.unknown.splice(0)).toEqual([]);
      expect(this.watcher.seen).toEqual([]);
      const other = otherSide(this.primary);
      await withSession(this.databases[this.primary], { purpose: 'audit' }, (primary) =>
        withSession(this.databases[other], { purpose: 'audit' }, async (follower) => {
          expect(await this.writers.audit(primary)).toEqual([]);
          expect(await measureLag(primary, follower, directionTo(other), 20_000)).toBeLessThan(20_000);
          expect(await auditedContents(follower)).toEqual(await auditedContents(primary));
        }),
      );
      const { verdict } = await whoIsPrimary(this.databases);
      expect(verdict).toMatchObject({ kind: 'certain', primary: this.primary });
    } finally {
      this.writers.resume();
    }
  }

  async close(): Promise<void> {
    await (await this.#spare)?.kill();
    await this.watcher.stop();
    await this.writers.stop();
    for (const database of this.own) await database.drop();
  }
}

/** Said in full where it is not: a comparison of the two would cut it. */
function isDone(outcome: string): void {
  expect(outcome === 'done', outcome).toBe(true);
}
