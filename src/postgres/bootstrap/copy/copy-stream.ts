import { Transform, type TransformCallback } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { from as copyFrom } from 'pg-copy-streams';
import type { Side } from '../../../side.js';
import type { Session } from '../../session.js';
import { CopyOut } from './copy-out.js';

/*
 * Rows pass from one server to the other as bytes, buffer by buffer with backpressure, so that memory does not depend on
 * the size of rows or tables. CopyOut takes the rows out of blue's messages; pg-copy-streams sends them on in larger
 * ones, since green takes longer to read a message for each row.
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
export async function streamRows(
  blue: Session,
  out: string,
  green: Session,
  into: string,
  options: CopyStreamOptions,
): Promise<number> {
  let failure: CopyFailure | undefined;
  const fails = (side: Side) => (error: unknown) => {
    failure ??= new CopyFailure(side, error);
  };
  const source = blue.query(new CopyOut(out));
  const target = green.query(copyFrom(into));
  source.once('error', fails('blue'));
  target.once('error', fails('green'));
  try {
    await pipeline(source, new Meter(options.onBytes), target, { signal: options.signal });
    return target.rowCount;
  } catch (error) {
    options.signal.throwIfAborted();
    throw failure ?? error;
  }
}

/** Counts the bytes, and holds them back where the pace asks for it. */
class Meter extends Transform {
  constructor(private readonly onBytes: (bytes: number) => number) {
    super();
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const wait = this.onBytes(chunk.length);
    if (wait <= 0) done(null, chunk);
    else setTimeout(done, wait, null, chunk);
  }
}
