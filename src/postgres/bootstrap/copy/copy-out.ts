import type { Duplex } from 'node:stream';
import type { Connection, Submittable } from 'pg';
import { takeBytes, type TakeBytes } from './row-socket.js';

/*
 * PostgreSQL sends a message for each row of COPY ... TO STDOUT. This takes the rows out of them in place, buffer by
 * buffer, and leaves every other message to pg, which goes on with the connection as after any query. Nothing is
 * allocated for a row: with pg-copy-streams, which makes a few objects of each, the copy of 3 M rows took the worker
 * 1.1 s of CPU time, most of it for the collection of its garbage.
 *
 * The messages: https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY
 */

type Listener = (chunk: Buffer) => void;

const HEADER_BYTES = 5;
const COPY_DATA = code('d');
/** What may come between rows: CopyOutResponse, NoticeResponse, ParameterStatus, NotificationResponse. */
const BETWEEN_ROWS: ReadonlySet<number> = new Set(['H', 'N', 'S', 'A'].map(code));

/** What becomes of the rows. One of the last two is called, once, unless they are discarded. */
export interface RowsTaken {
  /** Bytes of rows, as COPY writes them; `release` is called when they are needed no more. */
  readonly rows: (bytes: Buffer, release: () => void) => void;
  readonly ended: () => void;
  readonly failed: (error: Error) => void;
}

/** A `COPY ... TO STDOUT`, for `session.query()`. */
export class CopyOut implements Submittable {
  private stream: Duplex | undefined;
  /** pg's own. */
  private parse: Listener = () => undefined;
  private giveBack: () => void = () => undefined;
  private readonly header = Buffer.alloc(HEADER_BYTES);
  private headerBytes = 0;
  private isRow = false;
  /** Bytes of the present message that have not come yet. */
  private left = 0;
  private isDiscarded = false;

  constructor(
    private readonly sql: string,
    private readonly taken: RowsTaken,
  ) {}

  submit(connection: Connection): void {
    const { stream } = connection;
    const [parse, ...others] = stream.listeners('data');
    if (parse === undefined || others.length > 0) throw new Error('the connection is read by somebody else');
    this.parse = parse as Listener;
    this.stream = stream;
    this.giveBack = takeBytes(stream, this.readMessages);
    connection.query(this.sql);
  }

  /** Reads no more, and lets the server wait, until resume(). */
  pause(): void {
    if (!this.isDiscarded) this.stream?.pause();
  }

  resume(): void {
    this.stream?.resume();
  }

  /** Lets the rows pass by until the server has sent all of them, or until its session is ended. */
  discard(): void {
    this.isDiscarded = true;
    this.resume();
  }

  handleError(error: Error): void {
    if (!this.isDiscarded) this.taken.failed(error);
  }

  /* The end is the message CopyDone, which comes before these; pg calls them all the same. */
  handleCommandComplete(): void {
    return;
  }

  handleReadyForQuery(): void {
    return;
  }

  private readonly readMessages: TakeBytes = (chunk, release) => {
    let at = 0;
    let kept = 0;
    while (at < chunk.length) {
      if (this.left === 0) {
        if (this.headerBytes === 0 && chunk[at] === COPY_DATA && at + HEADER_BYTES <= chunk.length) {
          this.isRow = true;
          this.left = chunk.readUInt32BE(at + 1) - 4;
          at += HEADER_BYTES;
          continue;
        }
        at += this.takeHeader(chunk, at);
        if (this.headerBytes < HEADER_BYTES) break;
        const type = this.header[0] ?? 0;
        this.isRow = type === COPY_DATA;
        if (!this.isRow && !BETWEEN_ROWS.has(type)) return this.end(chunk, kept, at, release);
        this.headerBytes = 0;
        this.left = this.header.readUInt32BE(1) - 4;
        if (!this.isRow) this.parse(Buffer.from(this.header));
        continue;
      }
      const end = Math.min(chunk.length, at + this.left);
      if (this.isRow) {
        // Nobody else has this buffer, and what is overwritten has been read.
        chunk.copyWithin(kept, at, end);
        kept += end - at;
      } else this.parse(Buffer.from(chunk.subarray(at, end)));
      this.left -= end - at;
      at = end;
    }
    this.pass(chunk.subarray(0, kept), release);
  };

  private pass(rows: Buffer, release: () => void): void {
    if (rows.length > 0 && !this.isDiscarded) this.taken.rows(rows, release);
    else release();
  }

  private takeHeader(chunk: Buffer, from: number): number {
    const taken = Math.min(HEADER_BYTES - this.headerBytes, chunk.length - from);
    chunk.copy(this.header, this.headerBytes, from, from + taken);
    this.headerBytes += taken;
    return taken;
  }

  /** CopyDone or ErrorResponse, or what nobody expects: it and all that follows is for pg. */
  private end(chunk: Buffer, kept: number, at: number, release: () => void): void {
    const rest = Buffer.from(chunk.subarray(at));
    this.giveBack();
    this.stream?.resume();
    this.stream = undefined;
    this.pass(chunk.subarray(0, kept), release);
    if (this.header[0] === code('c') && !this.isDiscarded) this.taken.ended();
    this.parse(Buffer.from(this.header));
    if (rest.length > 0) this.parse(rest);
  }
}

function code(letter: string): number {
  return letter.charCodeAt(0);
}
