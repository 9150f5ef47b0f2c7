import { MockActivityEnvironment } from '@temporalio/testing';
import { promoteActivities } from '../../activities/promote.js';
import type { PromotionResult } from '../../activities/promotion-attempt.js';
import { planSchema } from '../../src/plan/schema.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { readRoute } from '../../src/postgres/state.js';
import { PromotionRig } from './promotion-rig.js';

export interface WayBack {
  /** Default: the one of now. */
  readonly epoch?: number;
  /** How much of a loss was accepted. Default: it was not counted. */
  readonly accepted?: string;
  /** Which one of the activity it is. Default 1. */
  readonly attempt?: number;
  /** Hears what the activity says while it works. */
  readonly told?: (what: string) => void;
}

/** A rig whose writers are on green, with blue as its standby, and a session of ours on either side. */
export class StandbyRig {
  private constructor(
    readonly rig: PromotionRig,
    readonly blue: Session,
    readonly green: Session,
  ) {}

  static async create(purpose: string): Promise<StandbyRig> {
    const rig = await PromotionRig.create(purpose);
    await rig.moveOn();
    const blue = await openSession(rig.databases.blue, { purpose: 'test' });
    const green = await openSession(rig.databases.green, { purpose: 'test' });
    return new StandbyRig(rig, blue, green);
  }

  async epoch(): Promise<number> {
    return (await readRoute(this.green, this.#migration))?.epoch ?? 0;
  }

  /** Moves the writes back by the activity. */
  async promoteBack(
    acceptLoss: boolean,
    { epoch, accepted, attempt = 1, told }: WayBack = {},
  ): Promise<PromotionResult> {
    const { blue, green } = this.rig.databases;
    const environment = { VERDIGRIS_CONNECTION_B: uriOf(blue), VERDIGRIS_CONNECTION_G: uriOf(green) };
    const plan = planSchema.parse({ name: this.#migration, blue: { connection: 'b' }, green: { connection: 'g' } });
    const of = epoch ?? (await this.epoch());
    const { promote } = promoteActivities({ environment, redact: (text) => text });
    const context = new MockActivityEnvironment({ attempt });
    context.on('heartbeat', (details: unknown) => told?.(JSON.stringify(details ?? null)));
    return context.run(() => promote({ plan, runId: 'run' }, 'green', of, acceptLoss, undefined, accepted));
  }

  async close(): Promise<void> {
    await Promise.all([this.blue, this.green].map(closeSession));
    await this.rig.close();
  }

  get #migration(): string {
    return this.rig.move('green').migration;
  }
}

function uriOf({ config }: Database): string {
  return `postgres://${config.user ?? ''}:${String(config.password)}@127.0.0.1:${config.port ?? 0}/${config.database ?? ''}`;
}
