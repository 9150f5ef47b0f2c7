import { join } from 'node:path';
import { describeProcess } from '../../src/embedded/process-state.js';
import { processesOf } from '../../src/embedded/process-tree.js';
import { startWorker, type WorkerProcess } from '../../src/embedded/worker-process.js';
import type { Bench } from './bench.js';
import { BENCH_DATABASE } from './data-set.js';
import { BLUE_CONNECTION, GREEN_CONNECTION } from './plan.js';

export interface BenchWorker {
  readonly process: WorkerProcess;
  readonly pid: number;
  readonly logFile: string;
}

/** A worker that has done nothing yet: memory that an earlier run took is not this one's. */
export async function freshWorker(bench: Bench, name: string): Promise<BenchWorker> {
  const { servers, temporal } = bench;
  const logFile = join(bench.folder, `worker-${name}.log`);
  const before = new Set(workers());
  const process = await bench.lifeCycle.start(`Worker for ${name}`, () =>
    startWorker({
      temporalAddress: temporal.address,
      connections: {
        [BLUE_CONNECTION]: servers.blue.uri(BENCH_DATABASE),
        [GREEN_CONNECTION]: servers.green.uri(BENCH_DATABASE),
      },
      logFile,
    }),
  );
  const pid = workers().find((one) => !before.has(one));
  if (pid === undefined) throw new Error('the worker is not to be found among our processes');
  return { process, pid, logFile };
}

function workers(): number[] {
  return processesOf(process.pid).filter((pid) => describeProcess(pid).command.includes('src/worker/from-source.js'));
}
