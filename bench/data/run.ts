import { writeFileSync } from 'node:fs';
import { EmbeddedError } from '../../src/embedded/embedded-error.js';
import { Interrupted, LifeCycle } from '../../src/embedded/life-cycle.js';
import { makeScratchFolder, removeScratchFolder } from '../../src/embedded/scratch-folder.js';
import { stopwatch } from '../../src/embedded/stopwatch.js';
import { findTemporalCli } from '../../src/embedded/temporal-cli.js';
import { startTemporal } from '../../src/embedded/temporal-server.js';
import { measureApplication } from './application.js';
import { measureBackfill } from './backfill.js';
import type { Bench } from './bench.js';
import { dumpAndRestore, pgcopydb, pgcopydbAndByHand, verdigris } from './contestants.js';
import { wrongIn } from './correctness.js';
import { BENCH_DATABASE, sizeOnDisk } from './data-set.js';
import { describeMachine } from './machine.js';
import { dataOptions, exitCodeOf, type DataOptions, type Part, type Peer } from './options.js';
import { report } from './report.js';
import type { DataResult } from './result.js';
import { measureInRounds, type Rounds } from './rounds.js';
import { SERVER_SETTINGS, startServers, withClient } from './servers.js';
import { measureVerificationPart } from './verify.js';

/** `npm run bench -- data`: the exit code is 1 when it could not measure, or Verdigris did something wrong; never for a speed. */
export async function dataBenchmark(args: readonly string[]): Promise<number> {
  let options: DataOptions;
  try {
    options = dataOptions(args);
  } catch (error) {
    const code = exitCodeOf(error);
    if (code === undefined) throw error;
    return code;
  }
  const say = (line: string): void => console.log(line);
  const lifeCycle = new LifeCycle(say);
  const stopping = new AbortController();
  lifeCycle.onSignal(() => {
    say('\nStopping everything (Ctrl-C again: at once) ...');
    stopping.abort(new Interrupted('data'));
    void lifeCycle.stop();
  });
  try {
    const bench = await begin(options, lifeCycle, stopping.signal, say);
    const { result, copy } = await measure(bench, args, (soFar) => {
      if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(soFar, null, 2)}\n`);
    });
    say(`\n${report(result)}\n`);
    await lifeCycle.stop();
    const wrong = wrongIn({ ...result, ...(copy === undefined ? {} : { copy }) });
    for (const line of wrong) console.error(`WRONG: ${line}`);
    return wrong.length === 0 ? 0 : 1;
  } catch (error) {
    const interrupted = error instanceof Interrupted || lifeCycle.ending;
    if (!interrupted) console.error(error instanceof EmbeddedError ? error.message : error);
    await lifeCycle.stop();
    return interrupted ? 130 : 1;
  }
}

async function begin(
  options: DataOptions,
  lifeCycle: LifeCycle,
  signal: AbortSignal,
  said: (line: string) => void,
): Promise<Bench> {
  const time = stopwatch();
  const say = (line: string): void => said(`[${time().padStart(8)}] ${line}`);
  const folder = makeScratchFolder('bench');
  lifeCycle.keep('Folder of the benchmark', { stop: () => Promise.resolve(removeScratchFolder(folder)) });
  const cliPath = await findTemporalCli(say);
  const temporal = await lifeCycle.start('Temporal server', () => startTemporal({ cliPath }));
  const servers = await startServers(lifeCycle, options, say);
  return { options, servers, temporal, lifeCycle, folder, signal, say };
}

/**
 * The parts in their order; what is there so far is saved after each: the last part of a night may fail.
 *
 * @returns also the copies that were made for the verification alone
 */
async function measure(
  bench: Bench,
  args: readonly string[],
  save: (result: DataResult) => void,
): Promise<{ readonly result: DataResult; readonly copy: Rounds | undefined }> {
  const blue = await withClient(bench.servers.blue.uri(BENCH_DATABASE), sizeOnDisk);
  const asked = (part: Part): boolean => bench.options.only.includes(part);
  let result: DataResult = {
    benchmark: 'data',
    startedAt: new Date().toISOString(),
    command: `npm run bench -- data ${args.join(' ')}`.trim(),
    options: bench.options,
    machine: await describeMachine(bench),
    serverSettings: SERVER_SETTINGS,
    blueBytes: blue.databaseBytes,
  };
  const add = (part: Partial<DataResult>): void => save((result = { ...result, ...part }));

  // The verification is a phase of the copy's runs: whoever asks for it alone gets those runs without the peers.
  const copy = asked('copy') || asked('verify') ? await measureCopy(bench) : undefined;
  if (copy !== undefined && asked('copy')) add({ copy });
  const change = asked('change') ? await measureChange(bench) : undefined;
  if (change !== undefined) add({ change });
  if (asked('application')) add({ application: await measureApplication(bench) });
  if (copy !== undefined && asked('verify')) {
    const runs = { copy: ownRuns(copy), change: change === undefined ? [] : ownRuns(change) };
    add({ verification: await measureVerificationPart(bench, runs) });
  }
  if (asked('backfill')) add({ backfill: await measureBackfill(bench) });
  return { result, copy };
}

function ownRuns({ runs, standings }: Rounds): Rounds['runs'] {
  return runs.filter(({ contestant }) => contestant === standings[0]?.contestant);
}

function measureCopy(bench: Bench): Promise<Rounds> {
  const withPeers = bench.options.only.includes('copy');
  const peer = (name: Peer): boolean => withPeers && bench.options.peers.includes(name);
  return measureInRounds(bench, 'copy', [
    verdigris('copy', 'none'),
    ...(peer('pgcopydb') ? [pgcopydb] : []),
    ...(peer('tablesync') ? [verdigris('tablesync', 'none')] : []),
    ...(peer('pg_dump') ? [dumpAndRestore] : []),
  ]);
}

function measureChange(bench: Bench): Promise<Rounds> {
  const peer = (name: Peer): boolean => bench.options.peers.includes(name);
  return measureInRounds(bench, 'schema change', [
    verdigris('copy', 'seed'),
    ...(peer('pgcopydb') && peer('by-hand') ? [pgcopydbAndByHand] : []),
    ...(peer('tablesync') ? [verdigris('tablesync', 'seed')] : []),
  ]);
}
