import {
  endTimeout,
  limitOf,
  OF_SENDER,
  OF_WORKER,
  peerUser,
  readTimeouts,
  type FeedTimeout,
} from '../feed-timeouts.js';
import { BOTH_SIDES, type Found, type SideCheck } from './check.js';

/** Limits of the processes that PostgreSQL itself runs for a feed: ours switch theirs off. */
export const feedTimeouts: SideCheck = {
  name: 'feed-timeouts',
  sides: BOTH_SIDES,
  run: async ({ session, side, database, plan }) => {
    // Of the way back no row is copied, nor of a standby.
    const isCopied = side === 'blue' && plan.bootstrap.method !== 'standby';
    const limits = [
      ...(await readTimeouts(side, session, peerUser(database), isCopied ? OF_SENDER : OF_WORKER)),
      ...(await readTimeouts(side, session, undefined, OF_WORKER)),
    ];
    return [...new Map(limits.map((limit) => [endTimeout(limit), limit])).values()].map((limit): Found => ({
      severity: 'warning',
      object: limit.setting,
      message: `${limitOf(limit)} also ends ${whatItEnds(limit, plan.bootstrap.method === 'tablesync')}: it begins anew, and never gets to its end`,
      remedy: `${endTimeout(limit)}, until the run has ended`,
    }));
  },
};

function whatItEnds({ setting }: FeedTimeout, byTablesync: boolean): string {
  if (setting === 'transaction_timeout') return 'a large transaction that replication sends or applies for longer';
  return `PostgreSQL's own copy of a table that takes longer (${byTablesync ? 'bootstrap "tablesync" copies all so' : 'tables that a worker which died, or a pause, has left are copied so'})`;
}
