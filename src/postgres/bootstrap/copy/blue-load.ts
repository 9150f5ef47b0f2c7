import { setTimeout as sleep } from 'node:timers/promises';
import type { Session } from '../../session.js';

/** Questions in a row whose mean is one measurement: a single one says more of the scheduler than of the load. */
const QUESTIONS = 5;
const BETWEEN_QUESTIONS_MS = 5;

/** How long blue takes to answer next to nothing, ms. The shortest and the longest of a few are left out. */
export async function answerTime(blue: Session, questions = QUESTIONS): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < questions; i++) {
    const started = performance.now();
    await blue.query('SELECT');
    times.push(performance.now() - started);
    await sleep(BETWEEN_QUESTIONS_MS);
  }
  const middle = times.sort((a, b) => a - b).slice(1, -1);
  return middle.reduce((sum, ms) => sum + ms, 0) / middle.length;
}

interface Sample {
  readonly at: number;
  readonly transactions: number;
}

/** Transactions are counted over so long: sessions hand in their counts once a second. */
const WINDOW_MS = 3_000;
/** What each session of ours that watches does itself, transactions a second, with room. */
const OURS_EACH = 30;

/** A session that has begun or ended a statement so lately is at work, though no look meets it in the middle of one. */
const LATELY = `interval '250 ms'`;

/** For a count of sessions of others, in pg_stat_activity. */
const AT_WORK = `application_name NOT LIKE 'verdigris%' AND (state = 'active' OR state_change > clock_timestamp() - ${LATELY})`;

/** How many sessions of others are at work on blue at this moment. */
export async function sessionsAtWork(blue: Session): Promise<number> {
  const { rows } = await blue.query<{ active: number }>(
    `SELECT count(*)::int AS active FROM pg_stat_activity
      WHERE backend_type = 'client backend' AND datname = current_database() AND ${AT_WORK}`,
  );
  return rows[0]?.active ?? 0;
}

/** What others do on blue. */
export class BlueLoad {
  private samples: readonly Sample[] = [];

  constructor(private readonly blue: Session) {}

  async read(): Promise<{ readonly transactionsPerSecond: number; readonly activeSessions: number }> {
    // By its name it is planned a few times, and not at every look: planning is most of what it takes of blue.
    const { rows } = await this.blue.query<{ transactions: string; ours: number; active: number }>({
      name: 'verdigris_load',
      text: `SELECT (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database())::text AS transactions,
                    count(*) FILTER (WHERE application_name LIKE 'verdigris%')::int AS ours,
                    count(*) FILTER (WHERE ${AT_WORK})::int AS active
               FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = current_database()`,
    });
    const now = { at: performance.now(), transactions: Number(rows[0]?.transactions ?? 0) };
    this.samples = [...this.samples.filter(({ at }) => now.at - at <= WINDOW_MS), now];
    const first = this.samples[0] ?? now;
    const seconds = (now.at - first.at) / 1_000;
    const all = seconds > 0.5 ? (now.transactions - first.transactions) / seconds : 0;
    return {
      transactionsPerSecond: Math.max(0, all - (rows[0]?.ours ?? 0) * OURS_EACH),
      activeSessions: rows[0]?.active ?? 0,
    };
  }
}
