/**
 * How many errors a subscription has met since its counters were read. They only grow, unless they have begun anew: a crash,
 * a failover and pg_stat_reset_subscription_stats() take them back to 0.
 */
export function errorsSince(before: number, now: number): number {
  return now < before ? now : now - before;
}
