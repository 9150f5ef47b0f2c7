import { loadavg } from 'node:os';
import { NotMeasured, type Bench } from './bench.js';
import type { Contestant, Measured } from './contestants.js';
import { freshStart } from './servers.js';
import { median, orderOfRound, ratio } from './statistics.js';

export interface Run extends Measured {
  readonly contestant: string;
  readonly round: number;
  /** The operating system's load average of the last minute as the run began: whether the machine was quiet. */
  readonly load: number;
}

/** What the rounds say of one contestant. */
export interface Standing {
  readonly contestant: string;
  readonly seconds: number | null;
  /** The median time of the first contestant, Verdigris, to this one's: below 1 Verdigris is faster. */
  readonly verdigrisTo: number | null;
  readonly peakMemoryBytes: number | null;
  readonly databaseBytes: number | null;
  readonly heapBytes: number | null;
  readonly tableBytes: number | null;
  readonly runs: number;
  /** Why it was not measured. */
  readonly missing?: string;
}

export interface Rounds {
  readonly standings: readonly Standing[];
  readonly runs: readonly Run[];
}

/** Measures all contestants in each round, in alternating order. One that fails is left out of the later rounds. */
export async function measureInRounds(
  bench: Bench,
  title: string,
  contestants: readonly Contestant[],
): Promise<Rounds> {
  const runs: Run[] = [];
  const missing = new Map<string, string>();
  for (let round = 1; round <= bench.options.rounds; round++) {
    for (const contestant of orderOfRound(contestants, round - 1)) {
      const { name } = contestant;
      if (missing.has(name)) continue;
      bench.signal.throwIfAborted();
      await freshStart(bench.servers);
      const [load = 0] = loadavg();
      try {
        const measured = await contestant.measure(bench, round);
        if (measured.size.rows < bench.options.rows) {
          throw new NotMeasured(`it brought ${measured.size.rows} of ${bench.options.rows} rows`);
        }
        runs.push({ contestant: name, round, load, ...measured });
        bench.say(`${title}, round ${round}: ${name} ${measured.seconds.toFixed(1)} s`);
      } catch (error) {
        if (bench.signal.aborted) throw error;
        const why = error instanceof Error ? error.message : String(error);
        missing.set(name, why);
        bench.say(`${title}, round ${round}: ${name} is left out: ${why}`);
      }
    }
  }
  return {
    runs,
    standings: standingsOf(
      contestants.map(({ name }) => name),
      runs,
      missing,
    ),
  };
}

/** Medians; memory is the largest of all rounds, since a peak is what a machine must have. */
export function standingsOf(
  names: readonly string[],
  runs: readonly Run[],
  missing: ReadonlyMap<string, string>,
): readonly Standing[] {
  const of = (name: string): readonly Run[] => runs.filter(({ contestant }) => contestant === name);
  const secondsOf = (name: string): number | null => median(of(name).map(({ seconds }) => seconds));
  const [first] = names;
  return names.map((contestant) => {
    const own = of(contestant);
    const why = missing.get(contestant);
    const peaks = own.map(({ peakMemoryBytes }) => peakMemoryBytes).filter((bytes) => bytes !== null);
    return {
      contestant,
      seconds: secondsOf(contestant),
      verdigrisTo: ratio(first === undefined ? null : secondsOf(first), secondsOf(contestant)),
      peakMemoryBytes: peaks.length === 0 ? null : Math.max(...peaks),
      databaseBytes: median(own.map(({ size }) => size.databaseBytes)),
      heapBytes: median(own.map(({ size }) => size.heapBytes)),
      tableBytes: median(own.map(({ size }) => size.tableBytes)),
      runs: own.length,
      ...(why === undefined ? {} : { missing: why }),
    };
  });
}
