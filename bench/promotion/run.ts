import { writeFileSync } from 'node:fs';
import { EmbeddedError } from '../../src/embedded/embedded-error.js';
import { Interrupted, LifeCycle } from '../../src/embedded/life-cycle.js';
import { stopwatch } from '../../src/embedded/stopwatch.js';
import { NotMeasured } from '../data/bench.js';
import { describeMachine } from '../data/machine.js';
import { exitCodeOf } from '../data/options.js';
import { SERVER_SETTINGS } from '../data/servers.js';
import { CONTEST, type Bench } from './contest.js';
import { wrongIn } from './correctness.js';
import { promotionOptions, type PromotionOptions } from './options.js';
import { startPairServers } from './pair.js';
import { report } from './report.js';
import type { PromotionResult } from './result.js';

/** `npm run bench -- promotion`: the exit code is 1 when it could not measure, or an audit found something wrong; never for a speed. */
export async function promotionBenchmark(args: readonly string[]): Promise<number> {
  let options: PromotionOptions;
  try {
    options = promotionOptions(args);
  } catch (error) {
    const code = exitCodeOf(error);
    if (code === undefined) throw error;
    return code;
  }
  const time = stopwatch();
  const say = (line: string): void => console.log(`[${time().padStart(8)}] ${line}`);
  const lifeCycle = new LifeCycle(say);
  const stopping = new AbortController();
  lifeCycle.onSignal(() => {
    say('Stopping everything (Ctrl-C again: at once) ...');
    stopping.abort(new Interrupted('promotion'));
    void lifeCycle.stop();
  });
  try {
    const servers = await startPairServers(lifeCycle, options.green);
    const bench: Bench = { options, servers, lifeCycle, signal: stopping.signal, say };
    const result = await measureAll(bench, args, (soFar) => {
      if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(soFar, null, 2)}\n`);
    });
    console.log(`\n${report(result)}\n`);
    await lifeCycle.stop();
    const wrong = wrongIn(result);
    for (const line of wrong) console.error(`WRONG: ${line}`);
    return wrong.length === 0 ? 0 : 1;
  } catch (error) {
    const interrupted = stopping.signal.aborted || error instanceof Interrupted || lifeCycle.ending;
    if (!interrupted) console.error(error instanceof EmbeddedError ? error.message : error);
    await lifeCycle.stop();
    return interrupted ? 130 : 1;
  }
}

/** One contestant after the other; what is there so far is saved after each. */
async function measureAll(
  bench: Bench,
  args: readonly string[],
  save: (result: PromotionResult) => void,
): Promise<PromotionResult> {
  let result: PromotionResult = {
    benchmark: 'promotion',
    startedAt: new Date().toISOString(),
    command: `npm run bench -- promotion ${args.join(' ')}`.trim(),
    options: bench.options,
    machine: await describeMachine(bench),
    serverSettings: SERVER_SETTINGS,
    measured: [],
    leftOut: [],
  };
  for (const contestant of bench.options.only) {
    try {
      result = { ...result, measured: [...result.measured, await CONTEST[contestant](bench)] };
    } catch (error) {
      if (!(error instanceof NotMeasured)) throw error;
      bench.say(`${contestant}: not measured: ${error.message}`);
      result = { ...result, leftOut: [...result.leftOut, { contestant, why: error.message }] };
    }
    save(result);
  }
  return result;
}
