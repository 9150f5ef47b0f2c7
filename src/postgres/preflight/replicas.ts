import { describeReader, readOtherReaders, type OtherReader } from '../other-readers.js';
import { oneRow, type PairCheck, type SideContext } from './check.js';

/** Physical replicas of blue and what else takes its WAL. They stay with blue, which nobody writes after the retirement. */
export const replicas: PairCheck = {
  name: 'replicas',
  run: async ({ blue, green }) => {
    const found = (await readOtherReaders(blue.session)).filter(({ kind }) => kind === 'physical');
    const others = blue.plan.bootstrap.method === 'standby' ? withoutGreen(found, await greenAsStandby(green)) : found;
    return others.map((reader) => ({
      side: 'blue',
      severity: 'warning',
      object: reader.slot ?? reader.application ?? 'a connection',
      message: `${describeReader(reader)} reads blue's WAL: a replica follows blue and not green, and after \`retire\` it goes on answering with ever older rows, without an error`,
      remedy:
        'Build replicas of green before reads move, for the load that these bear, and lead their readers there before `retire`; give green an archive of its own. Drop a slot that nobody uses',
    }));
  },
};

interface Standby {
  readonly slot: string;
  /** What it calls itself on blue. */
  readonly application: string;
}

async function greenAsStandby({ session }: SideContext): Promise<Standby> {
  return oneRow<Standby>(
    session,
    // Not everybody may see primary_conninfo: pg_settings leaves it out then.
    `SELECT current_setting('primary_slot_name') AS slot,
            coalesce((SELECT substring(setting from 'application_name\\s*=\\s*''?([^''[:space:]]+)')
                        FROM pg_settings WHERE name = 'primary_conninfo'),
                     nullif(current_setting('cluster_name'), ''), 'walreceiver') AS application`,
  );
}

/** A standby without a slot is told by its name alone, which others may have, too: one of these is green. */
function withoutGreen(readers: readonly OtherReader[], green: Standby): OtherReader[] {
  const own =
    readers.find(({ slot }) => slot !== null && slot === green.slot) ??
    readers.find(({ slot, application }) => slot === null && application === green.application);
  return readers.filter((reader) => reader !== own);
}
