import { Readable, type Duplex } from 'node:stream';
import type { Connection, Submittable } from 'pg';

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

/**
 * A `COPY ... TO STDOUT`, for `session.query()`: a stream of what it copies. An error of the server destroys it with
 * that error. One that is destroyed by others lets the server's rows pass by until the server has sent all of them, or
 * until its session is ended.
 */
export class CopyOut extends Readable implements Submittable {
  private connection: Duplex | undefined;
  /** pg's own. */
  private parse: Listener = () => undefined;
  private readonly header = Buffer.alloc(HEADER_BYTES);
  private headerBytes = 0;
  private isRow = false;
  /** Bytes of the present message that have not come yet. */
  private left = 0;

  constructor(private readonly sql: string) {
    super({ highWaterMark: 64 * 2 ** 10 });
  }

  submit(connection: Connection): void {
    const { stream } = connection;
    const [parse, ...others] = stream.listeners('data');
    if (parse === undefined || others.length > 0) throw new Error('the connection is read by somebody else');
    this.parse = parse as Listener;
    this.connection = stream;
    stream.removeListener('data', this.parse);
    stream.on('data', this.readMessages);
    connection.query(this.sql);
  }

  handleError(error: Error): void {
    this.destroy(error);
  }

  /* The end is the message CopyDone, which comes before these; pg calls them all the same. */
  handleCommandComplete(): void {
    return;
  }

  handleReadyForQuery(): void {
    return;
  }

  override _read(): void {
    this.connection?.resume();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.connection?.resume();
    done(error);
  }

  private readonly readMessages = (chunk: Buffer): void => {
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
        if (!this.isRow && !BETWEEN_ROWS.has(type)) return this.end(chunk.subarray(0, kept), chunk.subarray(at));
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
    if (kept > 0 && !this.destroyed && !this.push(chunk.subarray(0, kept))) this.connection?.pause();
  };

  private takeHeader(chunk: Buffer, from: number): number {
    const taken = Math.min(HEADER_BYTES - this.headerBytes, chunk.length - from);
    chunk.copy(this.header, this.headerBytes, from, from + taken);
    this.headerBytes += taken;
    return taken;
  }

  /** CopyDone or ErrorResponse, or what nobody expects: it and all that follows is for pg. */
  private end(rows: Buffer, rest: Buffer): void {
    const { connection } = this;
    this.connection = undefined;
    connection?.removeListener('data', this.readMessages);
    connection?.on('data', this.parse);
    connection?.resume();
    if (!this.destroyed) {
      if (rows.length > 0) this.push(rows);
      if (this.header[0] === code('c')) this.push(null);
    }
    this.parse(Buffer.from(this.header));
    if (rest.length > 0) this.parse(Buffer.from(rest));
  }
}

function code(letter: string): number {
  return letter.charCodeAt(0);
}
