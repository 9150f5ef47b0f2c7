import type { TablePatterns } from '../../src/postgres/catalog-pattern.js';
import { preparePromotion } from '../../src/postgres/prepare-promotion.js';
import { tryPromotion } from '../../src/postgres/promote.js';
import type { Promoted, PromotionTry } from '../../src/postgres/promotion.js';
import type { Databases } from '../../src/postgres/session.js';
import { otherSide, type Side } from '../../src/side.js';
import type { PromotionRig } from './promotion-rig.js';
import { StatementProxy, type Held, type When } from './statement-proxy.js';
import { unlessOthersWrite } from './unless-others-write.js';

/** The statement by which a promotion begins its hold. */
export const LOCKS_WRITERS_OUT = /READ COMMITTED; SET LOCAL lock_timeout = #; SET LOCAL idle_in_transaction/;

/**
 * Tries of a promotion in this process, one after the other on one preparation, each of which can be stopped at any statement to
 * the side that gives writes away.
 */
export class WatchedTry {
  /** The end of the try that is next, or under way. */
  private next = new TryEnd();

  private constructor(
    readonly from: Side,
    private readonly databases: Databases,
    private readonly rig: PromotionRig,
    private readonly proxy: StatementProxy,
    private readonly knownTables: readonly number[],
    private readonly patterns: TablePatterns | undefined,
  ) {}

  /** Prepares the promotion away from the rig's primary. */
  static async prepare(rig: PromotionRig, patterns?: TablePatterns): Promise<WatchedTry> {
    const from = rig.primary;
    const { migration, tables } = rig.move(from);
    const wayBack = tables.map((table) => ({ table }));
    const knownTables = await preparePromotion({
      ...{ databases: rig.databases, migration, from, fenced: tables, patterns, wayBack },
    });
    const old = rig.databases[from];
    const proxy = await StatementProxy.start(Number(old.config.port));
    const databases = { ...rig.databases, [from]: { ...old, config: { ...old.config, port: proxy.port } } };
    return new WatchedTry(from, databases, rig, proxy, knownTables, patterns);
  }

  /** Resolves when the next try comes to such a statement; it waits there until it is let go. @throws when it ends before. */
  stopAt(text: RegExp, when: When): Promise<Held> {
    const stop = this.proxy.stopWhere((point) => text.test(point.text), when);
    const early = this.next.outcome.then((outcome): never => {
      const why = outcome instanceof Error ? outcome.message : 'promoted';
      throw new Error(`the try has ended before ${text}: ${why}`);
    });
    return Promise.race([stop, early]);
  }

  /** Tries. @returns what it came to, also when that is an error. */
  run(
    limits: Partial<
      Pick<PromotionTry, 'maxHoldMs' | 'lockTimeoutMs' | 'comparedPartitions' | 'comparedOn' | 'lastLook' | 'pools'>
    > = {},
  ): Promise<Promoted | Error> {
    const { migration, tables } = this.rig.move(this.from);
    const promotion = {
      ...{ databases: this.databases, migration, from: this.from, fenced: tables, knownTables: this.knownTables },
      patterns: this.patterns,
      ...{ maxHoldMs: 5_000, lockTimeoutMs: 80, sequenceGap: 1_000, feedBack: true, ...limits },
    };
    const outcome = unlessOthersWrite(() => tryPromotion(promotion)).then(
      (promoted) => {
        this.rig.primary = otherSide(this.from);
        return promoted;
      },
      (error: unknown) => (error instanceof Error ? error : new Error(String(error))),
    );
    const { next } = this;
    return outcome.then((over) => {
      this.next = new TryEnd();
      next.tell(over);
      return over;
    });
  }

  async close(): Promise<void> {
    await this.proxy.close();
  }
}

/** How a try ends, for whoever waits for something else in it. */
class TryEnd {
  tell: (outcome: Promoted | Error) => void = () => undefined;
  readonly outcome = new Promise<Promoted | Error>((resolve) => (this.tell = resolve));
}
