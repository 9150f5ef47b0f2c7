import type { PreflightFinding } from '../src/postgres/preflight/finding.js';

/**
 * The checks whose errors may be over by themselves, or in another worker: a server or a proxy that is away, what is taken
 * right now, what one worker lacks. Of everything else somebody must change the plan, the schema or the rights.
 */
export const PASSING_CHECKS: readonly string[] = [
  // A server that fails over, is restarted, or is a standby for a moment; a lock that somebody holds for longer.
  ...['connection', 'check-failed', 'in-recovery', 'read-only-by-default', 'peer-connection', 'standby-replay'],
  ...['synchronous-standbys', 'prepared-transactions', 'long-transactions'],
  ...['connections', 'replication-slots', 'replication-origins', 'wal-senders'],
  ...['logical-replication-workers', 'worker-processes'],
  ...['pgbouncer-console', 'pgbouncer-reach', 'pgbouncer-entries', 'pgbouncer-auth-query'],
  ...['haproxy-api', 'haproxy-health'],
  ...['gate-source', 'metrics-page', 'flagd-file', 'traffic-webhook', 'notify-webhook'],
];

/** Those errors that may pass. While there is one, what else was found may come from it. */
export function passing(errors: readonly PreflightFinding[]): readonly PreflightFinding[] {
  return errors.filter(({ check }) => PASSING_CHECKS.includes(check));
}
