import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { tsxArguments } from '../../src/embedded/tsx-process.js';
import type { Database, Databases } from '../../src/postgres/session.js';
import type { Side } from '../../src/side.js';
import type { Move, Step } from './promotion-steps.js';
import { StatementProxy, type Held, type Point, type When } from './statement-proxy.js';

/** A point of a move: the step it belongs to, and the server that the statement goes to. */
export interface MovePoint extends Point {
  readonly from: Side;
  readonly step: Step;
  readonly to: Side;
}

/** A worker process that does the steps of a move through proxies of its own. */
export class PromotionActor {
  /** Every statement in the order in which it passed. */
  readonly seen: Omit<MovePoint, 'from'>[] = [];
  #step: Step = 'promote';
  #killed = false;

  private constructor(
    private readonly child: ChildProcess,
    private readonly databases: Databases,
    private readonly proxies: Map<Side, StatementProxy>,
  ) {}

  /** Returns when the process has loaded everything and waits for orders. */
  static async start(databases: Databases): Promise<PromotionActor> {
    const child = spawn(process.execPath, tsxArguments(new URL('./promotion-child.ts', import.meta.url)), {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    const proxies = new Map<Side, StatementProxy>();
    const actor = new PromotionActor(child, databases, proxies);
    for (const side of ['blue', 'green'] as const) {
      const port = Number(databases[side].config.port);
      const note = (point: Point): void => void actor.seen.push({ ...point, step: actor.#step, to: side });
      proxies.set(side, await StatementProxy.start(port, note));
    }
    await once(child, 'message');
    return actor;
  }

  /** Has a step done. @returns `done`, the error's message, or `killed`. */
  async run(step: Step, move: Move): Promise<string> {
    this.#step = step;
    const databases = { blue: this.#through('blue'), green: this.#through('green') };
    const outcome = new Promise<string>((resolve) => {
      this.child.once('message', (message: { outcome: string }) => resolve(message.outcome));
      this.child.once('exit', () => resolve('killed'));
    });
    this.child.send({ step, move: { ...move, databases } });
    return outcome;
  }

  /** The same database by way of the proxy; its peer still reaches it directly. */
  #through(side: Side): Database {
    const database = this.databases[side];
    return { ...database, config: { ...database.config, port: this.#proxy(side).port } };
  }

  #proxy(side: Side): StatementProxy {
    const proxy = this.proxies.get(side);
    if (proxy === undefined) throw new Error(`no proxy for ${side}`);
    return proxy;
  }

  stopAt(point: Omit<MovePoint, 'from'>, when: When): Promise<Held> {
    return this.#proxy(point.to).stopAt(point, when);
  }

  /** Stops it at the first such statement on that side. */
  stopWhere(side: Side, matches: (point: Point) => boolean, when: When): Promise<Held> {
    return this.#proxy(side).stopWhere(matches, when);
  }

  freeze(): void {
    this.child.kill('SIGSTOP');
  }

  thaw(): void {
    this.child.kill('SIGCONT');
  }

  /** Ends it without a chance to say goodbye. Safe to call again. */
  async kill(): Promise<void> {
    if (this.#killed) return;
    this.#killed = true;
    if (this.child.exitCode === null && this.child.signalCode === null) {
      const ended = once(this.child, 'exit');
      this.child.kill('SIGKILL');
      await ended;
    }
    await Promise.all([...this.proxies.values()].map((proxy) => proxy.close()));
  }
}
