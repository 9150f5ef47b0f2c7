import { reasonOf } from '../failure-text.js';
import type { Side } from '../side.js';
import type { Finding } from '../postgres/doctor/diagnose.js';
import type { Liveness } from '../postgres/doctor/liveness.js';
import type { Verdict } from '../postgres/doctor/who-is-primary.js';
import { Console } from './console.js';
import { Instance } from './instance.js';
import { claimsPauses, parseMark, type Mark } from './mark.js';
import { settingsOfPause } from './pause-settings.js';
import type { PgBouncer, PgBouncers } from './pgbouncer.js';

/** The mark of a run, and the entry that holds it. */
export interface FoundMark extends Mark {
  readonly entry: string;
}

/** What one PgBouncer shows; nothing is changed by looking. */
export type PoolerFound =
  | { readonly connection: string; readonly reached: false; readonly why: string }
  | {
      readonly connection: string;
      readonly reached: true;
      /** The side that the plan's entries lead to; null when they differ or lead elsewhere, or without a plan. */
      readonly leadsTo: Side | null;
      /** Whether a plan says which entries are moved: without one nothing can be said about where they lead. */
      readonly knownEntries: boolean;
      /** Entries that are paused: of the plan, or any. */
      readonly paused: readonly string[];
      readonly marks: readonly FoundMark[];
      /** The settings of a pause, while they are in force: clients of an entry share one server connection. */
      readonly quiet: string | null;
      /** How it differs from the file that the run writes; null when it does not, or the file is not to be seen here. */
      readonly differs: string | null;
    };

/** Looks at the PgBouncers of a plan. */
export function examinePoolers(setup: PgBouncers): Promise<PoolerFound[]> {
  return Promise.all(setup.instances.map((pooler) => examineOne(pooler, setup)));
}

/** Looks at PgBouncers by their admin consoles alone. */
export function examineConsoles(poolers: readonly Omit<PgBouncer, 'file'>[]): Promise<PoolerFound[]> {
  return Promise.all(poolers.map((pooler) => examineOne({ ...pooler, file: '' }, undefined)));
}

async function examineOne(pooler: PgBouncer, setup: PgBouncers | undefined): Promise<PoolerFound> {
  const { connection } = pooler;
  let console: Console | undefined;
  try {
    console = await Console.open(pooler);
    const rows = await console.databases();
    const marks = rows.flatMap(({ name, database }) => {
      const mark = name.startsWith('verdigris_') ? parseMark(database) : undefined;
      return mark === undefined ? [] : [{ entry: name, ...mark }];
    });
    const paused = rows.filter((row) => row.paused).map(({ name }) => name);
    const quiet = settingsOfPause(await console.settings()) ?? null;
    const seen = { connection, reached: true, marks, quiet } as const;
    if (setup === undefined) return { ...seen, leadsTo: null, knownEntries: false, paused, differs: null };
    const instance = new Instance(pooler, setup);
    try {
      const loaded = await instance.look();
      // The doctor may run where the worker's folder is not mounted.
      const differs = await instance.differsFromFile().catch(() => undefined);
      return {
        ...{ ...seen, leadsTo: loaded.leadsTo ?? null, knownEntries: true },
        ...{ paused: loaded.paused, differs: differs ?? null },
      };
    } finally {
      await instance.close();
    }
  } catch (error) {
    const why = reasonOf(error);
    return { connection, reached: false, why };
  } finally {
    console?.close();
  }
}

/** What is wrong with them, in plain words. Pure. */
export function diagnosePoolers(
  poolers: readonly PoolerFound[],
  verdict: Verdict,
  liveness: Liveness,
  aliases: PgBouncers['aliases'] | undefined,
): Finding[] {
  return poolers.flatMap((pooler): Finding[] => {
    const name = `PgBouncer "${pooler.connection}"`;
    const finding = (severity: Finding['severity'], what: string, next: string): Finding => ({
      ...{ severity, side: null, what: `${name} ${what}`, next },
    });
    if (!pooler.reached) {
      return [
        finding(
          'problem',
          `can't be looked at: ${pooler.why}`,
          'bring it back, or mend its connection, and look again',
        ),
      ];
    }
    const moving = pooler.marks.some(({ state }) => state === 'moving');
    return [
      ...wrongSide(pooler, verdict, liveness, aliases, moving, finding),
      ...pauses(pooler, liveness, finding),
      ...settings(pooler, liveness, moving, finding),
      ...(pooler.differs === null
        ? []
        : [
            finding(
              'problem',
              `does not show what its file says: ${pooler.differs}`,
              'RELOAD it on its admin console; it must include that very file',
            ),
          ]),
      ...(liveness.state === 'over' ? pooler.marks : []).map((mark) => leftMark(mark, finding)),
    ];
  });
}

type Reached = Extract<PoolerFound, { readonly reached: true }>;
type Say = (severity: Finding['severity'], what: string, next: string) => Finding;

function wrongSide(
  { leadsTo, knownEntries }: Reached,
  verdict: Verdict,
  liveness: Liveness,
  aliases: PgBouncers['aliases'] | undefined,
  moving: boolean,
  say: Say,
): Finding[] {
  if (!knownEntries || aliases === undefined) return [];
  if (verdict.kind !== 'certain') {
    return leadsTo === null ? [say('problem', 'leads to neither side', 'see who is primary first')] : [];
  }
  const { primary } = verdict;
  if (leadsTo === primary) return [];
  const what = `leads to ${leadsTo ?? 'neither side'}, and writes are on ${primary}`;
  if (moving && isAttended(liveness)) {
    return [say('note', what, 'nothing: the run is moving the writes, and its worker leads it there')];
  }
  const byHand = `give its entries host, port and dbname of "${aliases[primary]}" in the file that it includes, RELOAD`;
  switch (liveness.state) {
    case 'over':
      return [say('problem', what, byHand)];
    case 'unknown':
      return [say('problem', what, `${byHand}, once you know that no run lives`)];
    case 'lives': {
      const next = 'the run leads it there when its worker reaches it; see status and the worker';
      return [say('problem', what, liveness.unattended === true ? `${next}. Where no worker runs: ${byHand}` : next)];
    }
  }
}

/** Whether somebody is at work who ends what a run that lives has begun. */
function isAttended(liveness: Liveness): boolean {
  return liveness.state === 'lives' && liveness.unattended !== true;
}

const UNATTENDED = 'the run is moving the writes, and no worker is seen at work';
const LOOK_AGAIN = 'a worker that runs ends it within seconds: look again';

/** A pause of ours may have ended without its RELOAD, and one that a frozen worker begins late has none. */
function leftMark(mark: FoundMark, say: Say): Finding {
  const { entry, state, overtaken } = mark;
  return say(
    'leftover',
    `has the mark of a run that is over (${entry}, ${state}${overtaken === true ? ', overtaken' : ''})`,
    claimsPauses(mark)
      ? `RELOAD now, on its admin console: settings of a pause may still be in force. The line ${entry} of the file may then be deleted, with another RELOAD, or left`
      : `nobody is harmed by it: delete the line ${entry} from the file and RELOAD, or leave it`,
  );
}

function settings({ quiet }: Reached, liveness: Liveness, moving: boolean, say: Say): Finding[] {
  if (quiet === null) return [];
  const what = `lets the clients of each database share one server connection, as for a pause (${quiet})`;
  if (liveness.state === 'lives' && moving) {
    return isAttended(liveness)
      ? [say('note', `${what}: the run is moving the writes`, 'nothing: it ends within seconds; look again')]
      : [say('problem', `${what}: ${UNATTENDED}`, `${LOOK_AGAIN}. Where none runs: RELOAD, on its admin console`)];
  }
  const when = liveness.state === 'unknown' ? 'when no run lives (--run-is-over): ' : '';
  return [say('problem', what, `${when}RELOAD, on its admin console, unless it is configured so`)];
}

function pauses({ paused, marks }: Reached, liveness: Liveness, say: Say): Finding[] {
  const moving = marks.some(({ state }) => state === 'moving');
  const overtaken = marks.some((mark) => mark.overtaken === true);
  if (paused.length === 0) return [];
  const entries = paused.map((entry) => `"${entry}"`).join(', ');
  // RESUME alone would leave the settings of the pause in force.
  const resume = `on its admin console: RELOAD; ${paused.map((entry) => `RESUME ${entry};`).join(' ')}`;
  const what = `holds its clients: ${entries} paused`;
  switch (liveness.state) {
    case 'over':
      return [
        say(
          'problem',
          `${what}, and no run lives that would resume`,
          `see first that it leads where writes are, then ${resume}`,
        ),
      ];
    case 'unknown':
      return [
        say('problem', `${what}; whether a run lives is not known`, `when no run lives (--run-is-over): ${resume}`),
      ];
    case 'lives':
      if (moving && !isAttended(liveness)) {
        const next = `${LOOK_AGAIN}. Where none runs, see that it leads where writes are, then ${resume}`;
        return [say('problem', `${what}: ${UNATTENDED}`, next)];
      }
      return moving
        ? [say('note', `${what}: the run is moving the writes`, 'nothing: it ends within seconds; look again')]
        : [
            say(
              'problem',
              `${what}, and not by the run${overtaken ? ', unless by a worker of it that woke up late' : ''}`,
              `ask who has paused it; then ${resume}`,
            ),
          ];
  }
}
