export interface Benchmark {
  /** One line for people. */
  readonly about: string;
  /** Loads the program, which takes its arguments and gives its exit code: only the one that runs costs time. */
  readonly load: () => Promise<(args: readonly string[]) => Promise<number>>;
}

/** The benchmarks by the name that `npm run bench` takes. */
export const BENCHMARKS: Readonly<Record<string, Benchmark>> = {
  data: {
    about: 'how fast the rows get to green, beside pgcopydb, pg_dump, tablesync, pgroll and plain SQL',
    load: async () => (await import('./data/run.js')).dataBenchmark,
  },
  gates: {
    about: 'how often gates pass a bad green or end a healthy one, beside the rules of other tools, by simulation',
    load: async () => (await import('./gates/run.js')).gatesBenchmark,
  },
  promotion: {
    about: 'what an application notices when its writes move to green and back, beside the recipe by hand',
    load: async () => (await import('./promotion/run.js')).promotionBenchmark,
  },
  router: {
    about: 'what the router costs beside a plain pg.Pool, on blue and on green',
    load: async () => (await import('./router/run.js')).routerBenchmark,
  },
};

/** The benchmark of this name; undefined when there is none. */
export function benchmarkNamed(name: string | undefined): Benchmark | undefined {
  return name !== undefined && Object.hasOwn(BENCHMARKS, name) ? BENCHMARKS[name] : undefined;
}
