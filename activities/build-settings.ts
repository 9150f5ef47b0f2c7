import { settingsBesideBlue } from '../src/postgres/migrate/beside-blue.js';
import { indexSettings, type IndexSettings } from '../src/postgres/migrate/index-settings.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { Work } from './context.js';

/** How indexes are built on green at this moment: the plan's settings, and less where the application would notice. */
export async function buildSettings(work: Work, ref: RunRef): Promise<IndexSettings> {
  const sides = { blue: await work.session('blue', 'index pace'), green: await work.session('green', 'index pace') };
  return settingsBesideBlue(indexSettings(ref.plan), ref.plan.bootstrap.pace, sides);
}
