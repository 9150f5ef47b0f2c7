import { expect } from 'vitest';
import type { MovePoint } from './promotion-actor.js';
import { PromotionRig } from './promotion-rig.js';
import type { When } from './statement-proxy.js';

/** A rig whose writes have moved there and back once: what a worker comes by on its way is known. */
export class MovedRig {
  private constructor(
    readonly rig: PromotionRig,
    readonly points: readonly MovePoint[],
  ) {}

  static async create(purpose: string): Promise<MovedRig> {
    const rig = await PromotionRig.create(purpose);
    const points = await rig.record();
    await rig.moveOn();
    return new MovedRig(rig, points);
  }

  find(text: RegExp, session = /./): MovePoint {
    const point = this.points.find((one) => text.test(one.text) && session.test(one.session));
    if (point === undefined) throw new Error(`no point ${text.source}`);
    return point;
  }

  /** The worker fails there on the way to green: another one ends the move, and every write is there once. */
  async endsWell(fault: 'kill' | 'freeze', when: When, text: RegExp): Promise<void> {
    const { rig } = this;
    if (rig.primary === 'green') await rig.moveOn();
    expect(await rig.fault(fault, this.find(text), when)).toBe(true);
    await rig.audit();
  }
}
