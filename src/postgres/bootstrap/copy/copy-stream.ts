import type { Side } from '../../../side.js';
import type { Session } from '../../session.js';
import { CopyIn } from './copy-in.js';
import { CopyOut } from './copy-out.js';

/*
 * Rows pass from one server to the other as bytes, buffer by buffer with backpressure, so that memory does not depend on
 * the size of rows or tables. CopyOut takes the rows out of blue's messages, CopyIn sends them on in larger ones, since
 * green takes longer to read a message for each row. No buffer is made or copied on the way.
 */

/** What failed, and on which side: blue reads and computes, green writes. */
export class CopyFailure extends Error {
  override readonly name = 'CopyFailure';

  constructor(
    readonly side: Side,
    override readonly cause: unknown,
  ) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

export interface CopyStreamOptions {
  readonly signal: AbortSignal;
  /** Told about each buffer; what it returns is waited for, ms. */
  readonly onBytes: (bytes: number) => number;
}

/**
 * Pipes `COPY ... TO STDOUT` of one session into `COPY ... FROM STDIN` of another.
 *
 * @returns how many rows green has taken.
 * @throws CopyFailure with the first error. Both sessions must be closed then: the streams may have left them in the
 *   middle of a message.
 */
export function streamRows(
  blue: Session,
  out: string,
  green: Session,
  into: string,
  options: CopyStreamOptions,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const { signal } = options;
    const target = new CopyIn(into, { done: over(resolve), failed: fails('green') });
    const flow = new Flow(target, options.onBytes);
    const source = new CopyOut(out, {
      rows: (bytes, release) => flow.pass(source, bytes, release),
      ended: () => target.end(),
      failed: fails('blue'),
    });
    signal.addEventListener('abort', aborted, { once: true });
    if (signal.aborted) return aborted();
    green.query(target);
    blue.query(source);

    function over<T>(then: (value: T) => void): (value: T) => void {
      return (value) => {
        signal.removeEventListener('abort', aborted);
        flow.stop();
        then(value);
      };
    }
    function fails(side: Side): (cause: Error) => void {
      return over((cause) => giveUp(new CopyFailure(side, cause)));
    }
    function aborted(): void {
      over(giveUp)(signal.reason as Error);
    }
    function giveUp(error: Error): void {
      source.discard();
      target.fail(error.message);
      reject(error);
    }
  });
}

/** So many buffers may be on their way to green: one is written while the next is read. */
const BUFFERS = 2;

/** Keeps blue waiting while green is behind, and where the pace asks for it. */
class Flow {
  private onTheirWay = 0;
  private rest: NodeJS.Timeout | undefined;
  private isOver = false;

  constructor(
    private readonly target: CopyIn,
    private readonly onBytes: (bytes: number) => number,
  ) {}

  pass(source: CopyOut, bytes: Buffer, release: () => void): void {
    const restMs = this.onBytes(bytes.length);
    this.onTheirWay++;
    this.target.write(bytes, () => {
      release();
      this.onTheirWay--;
      this.goOn(source);
    });
    if (restMs > 0 && !this.isOver) {
      clearTimeout(this.rest);
      this.rest = setTimeout(() => {
        this.rest = undefined;
        this.goOn(source);
      }, restMs);
    }
    if (this.onTheirWay >= BUFFERS || this.rest !== undefined) source.pause();
  }

  stop(): void {
    this.isOver = true;
    clearTimeout(this.rest);
    this.rest = undefined;
  }

  private goOn(source: CopyOut): void {
    if (this.onTheirWay < BUFFERS && this.rest === undefined) source.resume();
  }
}
