import { abandon } from './guardian.js';
import { launchers } from './launchers.js';
import { isRunning } from './process-state.js';
import { stopwatch } from './stopwatch.js';

/** Something that was started and has to be stopped. */
export interface Stoppable {
  stop(): Promise<void>;
}

/** The run was asked to stop while it was still starting. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
}

/**
 * Starts things in order and stops them in the reverse order: on request, on a signal, or when the process that
 * started us is gone. A part that is being started when the end comes is waited for and stopped too.
 */
export class LifeCycle {
  readonly #parts: { readonly name: string; readonly started: Promise<Stoppable> }[] = [];
  #ending: Promise<void> | undefined;

  constructor(private readonly progress: (line: string) => void) {}

  /** Whether the end has come, or was asked for. */
  get ending(): boolean {
    return this.#ending !== undefined;
  }

  /**
   * Starts a part and keeps it for the end.
   *
   * @throws Interrupted when the end has come meanwhile.
   */
  async start<T extends Stoppable>(name: string, start: () => Promise<T>): Promise<T> {
    if (this.ending) throw new Interrupted(name);
    const time = stopwatch();
    const started = start();
    this.#parts.push({ name, started });
    const part = await started;
    if (this.ending) throw new Interrupted(name);
    this.progress(`${name}: ${time()}`);
    return part;
  }

  /** Keeps something for the end that is there already. */
  keep(name: string, part: Stoppable): void {
    this.#parts.push({ name, started: Promise.resolve(part) });
  }

  /** Stops everything, last things first. Safe to call again. */
  stop(): Promise<void> {
    this.#ending ??= (async () => {
      for (const { name, started } of [...this.#parts].reverse()) {
        try {
          await (await started).stop();
        } catch (error) {
          // A part that never started has cleaned up after itself; one that fails to stop is left to the guardian.
          if (await isStarted(started)) this.progress(`${name} did not stop in order: ${String(error)}`);
        }
      }
    })();
    return this.#ending;
  }

  /**
   * Calls `onEnd` once when a signal asks us to go, or when the process that started us is gone. A second Ctrl-C ends
   * at once: the guardian kills what still runs.
   */
  onSignal(onEnd: () => void): void {
    let since: number | undefined;
    const onSignal = (): void => {
      if (since === undefined) {
        since = performance.now();
        onEnd();
      } else if (performance.now() - since > SAME_KEYSTROKE_MS) {
        abandon();
        process.exit(130);
      }
    };
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal);
    // With its terminal gone, a write fails: that must not stop the stopping.
    for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
    const watched = launchers();
    setInterval(() => {
      if (since === undefined && !watched.every(isRunning)) onSignal();
    }, 1_000).unref();
  }
}

/** npm and a terminal may both pass on one Ctrl-C. */
const SAME_KEYSTROKE_MS = 700;

async function isStarted(started: Promise<Stoppable>): Promise<boolean> {
  return started.then(
    () => true,
    () => false,
  );
}
