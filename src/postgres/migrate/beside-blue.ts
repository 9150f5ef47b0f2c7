import type { Session } from '../session.js';
import { sessionsAtWork } from '../bootstrap/copy/blue-load.js';
import type { IndexSettings } from './index-settings.js';

/*
 * Green mostly is a server of its own, where index builds may take every processor. Where it shares the machine with
 * blue, as for a new major version on the same host, they would take them from the application. PostgreSQL can't slow a
 * build down, so there one is built after the other, each by one process, while others are at work on blue.
 */

/** The settings for builds on green now. */
export async function settingsBesideBlue(
  settings: IndexSettings,
  pace: 'auto' | 'full',
  sides: { readonly blue: Session; readonly green: Session },
): Promise<IndexSettings> {
  if (pace === 'full' || !(await onOneMachine(sides)) || (await sessionsAtWork(sides.blue)) === 0) return settings;
  return { ...settings, parallel: 1, oneProcess: true };
}

/** By the address at which each server was reached, as it sees it; over Unix sockets there is none, and one machine. */
async function onOneMachine({ blue, green }: { readonly blue: Session; readonly green: Session }): Promise<boolean> {
  const [one, other] = await Promise.all([blue, green].map(addressOf));
  return one === other;
}

async function addressOf(session: Session): Promise<string> {
  const { rows } = await session.query<{ address: string | null }>('SELECT host(inet_server_addr()) AS address');
  return rows[0]?.address ?? 'a Unix socket';
}
