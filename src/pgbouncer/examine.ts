import { reasonOf } from '../failure-text.js';
import type { Side } from '../side.js';
import { Console } from './console.js';
import { Instance } from './instance.js';
import { isMark, parseMark, type Mark } from './mark.js';
import { settingsOfPause } from './pause-settings.js';
import type { PgBouncer, PgBouncers } from './pgbouncer.js';

/** The mark of a run, and the entry that holds it; of whichever migration. */
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
      /** Whether all of it is paused, which no entry shows. */
      readonly pausedAsAWhole: boolean;
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
      const mark = isMark(name) ? parseMark(database) : undefined;
      return mark === undefined ? [] : [{ entry: name, ...mark }];
    });
    const paused = rows.filter((row) => row.paused).map(({ name }) => name);
    const quiet = settingsOfPause(await console.settings()) ?? null;
    const pausedAsAWhole = (await console.isPausedAsAWhole()) === true;
    const seen = { connection, reached: true, marks, quiet, pausedAsAWhole } as const;
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
