import { edit, type Mutation } from './mutation.js';

/* Rules of poolers between the application and the databases. */

const POOLS = 'src/pgbouncer/pgbouncer-pools.ts';

const inPools = (name: string) => ({ file: 'test/pgbouncer/promotion.test.ts', name });

export const POOLER_RULES: readonly Mutation[] = [
  {
    rule: 'a PAUSE that does not return is given up after a time of our own',
    edits: [
      edit(
        'src/pgbouncer/instance.ts',
        "      if ((await within(all, withinMs, 'late')) === 'late')\n",
        "      await all;\n      if ((await within(all, withinMs, 'late')) === 'late')\n",
      ),
    ],
    test: inPools('a client does not end its transaction'),
  },
  {
    rule: 'everybody goes on when a pause is given up',
    edits: [
      edit(
        POOLS,
        '    const unreleased = await this.release();\n    const names',
        '    const unreleased: Unreleased[] = [];\n    const names',
      ),
      edit(POOLS, '      await this.#resumeAfter(error);\n', ''),
    ],
    test: inPools('a client does not end its transaction'),
  },
  {
    rule: 'nobody is paused for a transaction that is known to be long',
    edits: [
      edit(
        POOLS,
        '    if (old !== null) throw promotionBlocked(`PgBouncer would',
        '    if (old === undefined) throw promotionBlocked(`PgBouncer would',
      ),
    ],
    test: inPools('a client does not end its transaction'),
  },
  {
    rule: 'a pause closes no connection that is being opened',
    edits: [edit('src/pgbouncer/pause-settings.ts', "  ['min_pool_size', 0],\n  ['max_db_connections', 1],\n", '')],
    test: { file: 'test/long/logins.long.ts', name: 'refuses nobody' },
  },
  {
    rule: 'a worker that was overtaken leaves the pause of the other one alone',
    edits: [
      edit(
        'src/pgbouncer/turn.ts',
        '!this.isOwn(mark) && !this.#before.has(mark.token);',
        '!this.isOwn(mark) && !this.#before.has(mark.token) && false;',
      ),
    ],
    test: { file: 'test/pgbouncer/turns.test.ts', name: 'leaves the pause of the other one alone' },
  },
  {
    rule: 'who has announced a promotion beside another one takes that back',
    edits: [edit(POOLS, '      if (error instanceof PoolerAwaited) await this.release();\n', '')],
    test: { file: 'test/pgbouncer/two-migrations.test.ts', name: 'stands in the way of none' },
  },
  {
    rule: 'who waits for the promotion of another migration has announced nothing',
    edits: [
      edit(POOLS, "    if (from === 'blue') await this.#untilOthersAreOver(live);\n", ''),
      edit(
        POOLS,
        "      if (from === 'blue') await instance.refuseOtherPromotions(0);\n      await instance.load({ side: from",
        "      if (from === 'blue') await instance.refuseOtherPromotions(OTHERS_OVER_WITHIN_MS);\n      await instance.load({ side: from",
      ),
    ],
    test: { file: 'test/pgbouncer/two-migrations.test.ts', name: 'announce nothing anywhere while they wait' },
  },
];
