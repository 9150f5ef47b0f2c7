import { withSession, type Databases } from '../../src/postgres/session.js';
import { otherSide, type Side } from '../../src/side.js';
import { OUTCOME, type LoadResult } from './load-messages.js';
import { SHOP_PAYMENTS, SHOP_SUMS } from './shop.js';

/** The application's journal held against the databases. */
export interface Audit {
  readonly payments: number;
  readonly acknowledged: number;
  /** Requests for which the application got an error. */
  readonly failed: number;
  /** Neither acknowledged nor failed half a minute after the end. */
  readonly unanswered: number;
  /** Acknowledged, and not there. */
  readonly lost: number;
  /** There more than once. */
  readonly doubled: number;
  /** Not acknowledged, and there all the same. */
  readonly failedButThere: number;
  /** Both sides have the same rows, by a hash of each. */
  readonly isEqual: boolean;
  /** Balances, counters and the sequence agree with the payments. */
  readonly isBalanced: boolean;
}

/** Looks every payment up. The application has stopped, and the other side has everything. */
export async function audit(databases: Databases, primary: Side, result: LoadResult): Promise<Audit> {
  const look = (side: Side): Promise<Record<string, unknown>> =>
    withSession(databases[side], { purpose: 'audit' }, async (session) => {
      const { rows } = await session.query<Record<string, unknown>>(SHOP_SUMS);
      return rows[0] ?? {};
    });
  const [ours, others] = [await look(primary), await look(otherSide(primary))];
  const there = await withSession(databases[primary], { purpose: 'audit' }, async (session) => {
    const { rows } = await session.query<{ number: number; times: number }>(SHOP_PAYMENTS);
    return new Map(rows.map(({ number, times }) => [number, times]));
  });
  const journal = new Map([...result.number].map((number, i) => [number, result.outcome[i] ?? OUTCOME.underWay]));
  const count = (matches: (outcome: number, times: number) => boolean): number =>
    [...journal].filter(([number, outcome]) => matches(outcome, there.get(number) ?? 0)).length;
  const unknown = [...there.keys()].filter((number) => !journal.has(number)).length;
  return {
    payments: result.outcome.length,
    acknowledged: count((outcome) => outcome === OUTCOME.acknowledged),
    failed: count((outcome) => outcome === OUTCOME.failed) + result.failedWithoutNumber,
    unanswered: count((outcome) => outcome === OUTCOME.underWay),
    lost: count((outcome, times) => outcome === OUTCOME.acknowledged && times === 0),
    doubled: [...there.values()].filter((times) => times > 1).length,
    failedButThere: count((outcome, times) => outcome === OUTCOME.failed && times > 0) + unknown,
    isEqual: ['accounts', 'payments', 'users'].every((table) => ours[table] === others[table]),
    isBalanced: ours['balanced'] === true && ours['counted'] === true && ours['ahead'] === true,
  };
}
