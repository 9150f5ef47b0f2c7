import { setTimeout as sleep } from 'node:timers/promises';

/** The slot of the way back waits for whoever writes on its server, in any database: what a promotion says of it. */
const OTHERS_WRITE = /the slot of the way back (can't be made|waiting)/;

/** Other tests write on the same server: tries again while they keep the slot of the way back waiting, as an activity would. */
export async function unlessOthersWrite<T>(attempt: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      if (tries === 8 || !(error instanceof Error) || !OTHERS_WRITE.test(error.message)) throw error;
      await sleep(100);
    }
  }
}
