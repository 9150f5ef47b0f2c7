import { settingsBesideBlue } from '../src/postgres/migrate/beside-blue.js';
import { indexSettings, type IndexSettings } from '../src/postgres/migrate/index-settings.js';
import type { Session } from '../src/postgres/session.js';
import type { Side } from '../src/side.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { sessionsOnBoth, type Work } from './context.js';

/**
 * How indexes are built on green at this moment: the plan's settings, and less where the application would notice.
 *
 * @param sides sessions to ask by. Default: of its own
 */
export async function buildSettings(
  work: Work,
  ref: RunRef,
  sides?: Readonly<Record<Side, Session>>,
): Promise<IndexSettings> {
  const asked = sides ?? (await sessionsOnBoth(work, 'index pace'));
  return settingsBesideBlue(indexSettings(ref.plan), ref.plan.bootstrap.pace, asked);
}
