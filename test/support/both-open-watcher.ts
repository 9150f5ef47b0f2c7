import { setTimeout as sleep } from 'node:timers/promises';
import { closeSession, openSession, type Databases, type Session } from '../../src/postgres/session.js';
import type { Side } from '../../src/side.js';

interface Look {
  readonly open: boolean;
  readonly epoch: number;
}

/**
 * Looks at fence and route of both sides all the time. One side, the other, the first again: a side that is open before
 * and after in one epoch was open all the while, so the other one must not have been.
 */
export class BothOpenWatcher {
  readonly seen: string[] = [];
  looks = 0;
  #isStopped = false;
  #loop: Promise<void> = Promise.resolve();

  static async start(databases: Databases, tables: number): Promise<BothOpenWatcher> {
    const watcher = new BothOpenWatcher();
    watcher.#loop = watcher.#watch(await sessionsTo(databases), tables);
    return watcher;
  }

  /** One that goes on when a server goes away, or has no fence yet or any more: then there is nothing to be seen. */
  static startPatient(databases: Databases, tables: number): BothOpenWatcher {
    const watcher = new BothOpenWatcher();
    watcher.#loop = (async () => {
      while (!watcher.#isStopped) {
        await sessionsTo(databases)
          .then((sessions) => watcher.#watch(sessions, tables))
          .catch(() => sleep(50));
      }
    })();
    return watcher;
  }

  async #watch(sessions: Readonly<Record<Side, Session>>, tables: number): Promise<void> {
    try {
      await this.#look(sessions, tables);
    } finally {
      await Promise.all([closeSession(sessions.blue), closeSession(sessions.green)]);
    }
  }

  async #look(sessions: Readonly<Record<Side, Session>>, tables: number): Promise<void> {
    while (!this.#isStopped) {
      const before = await look(sessions.blue, tables);
      const between = await look(sessions.green, tables);
      const after = await look(sessions.blue, tables);
      this.looks++;
      if (before.open && between.open && after.open && before.epoch === after.epoch) {
        this.seen.push(`both open: blue at epoch ${after.epoch}, green at ${between.epoch}`);
      }
      await sleep(3);
    }
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#loop;
  }
}

async function sessionsTo(databases: Databases): Promise<Readonly<Record<Side, Session>>> {
  const blue = await openSession(databases.blue, { purpose: 'watcher' });
  try {
    return { blue, green: await openSession(databases.green, { purpose: 'watcher' }) };
  } catch (error) {
    await closeSession(blue);
    throw error;
  }
}

/** Open: the flag lets writes pass, or a table has no fence in force. */
async function look(session: Session, tables: number): Promise<Look> {
  // Named, so that it is planned once: it is asked hundreds of times a second.
  const { rows } = await session.query<Look>({
    name: 'both open',
    text: `SELECT (SELECT last_value FROM verdigris.fence) = 0
            OR (SELECT count(*) FROM pg_trigger WHERE tgname = '_verdigris_fence' AND tgenabled = 'A') < ${tables} AS open,
            (SELECT max(epoch)::float8 FROM verdigris.route) AS epoch`,
  });
  return rows[0] ?? { open: false, epoch: 0 };
}
