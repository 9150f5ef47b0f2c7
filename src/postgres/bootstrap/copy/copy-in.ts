import type { Connection, Submittable } from 'pg';

/*
 * COPY ... FROM STDIN for whoever has rows in large buffers and wants them back: each is one message, handed to the
 * operating system together with its header, and told about when it has been taken.
 */

/** What became of it. One of them is called, once. */
export interface CopyInEnd {
  /** The server has taken everything and is ready for another query. */
  readonly done: (rows: number) => void;
  readonly failed: (error: Error) => void;
}

/** A `COPY ... FROM STDIN`, for `session.query()`. */
export class CopyIn implements Submittable {
  private connection: Connection | undefined;
  private isReady = false;
  private isOver = false;
  private rows = 0;
  /** What is to be sent when the server is ready for it. */
  private waiting: ((connection: Connection) => void)[] = [];

  constructor(
    private readonly sql: string,
    private readonly ended: CopyInEnd,
  ) {}

  submit(connection: Connection): void {
    this.connection = connection;
    connection.query(this.sql);
  }

  /** @param written called when the bytes have been handed to the operating system, or never will be. */
  write(bytes: Buffer, written: () => void): void {
    this.send(({ stream }) => {
      stream.cork();
      stream.write(header('d', bytes.length));
      stream.write(bytes, () => written());
      stream.uncork();
    });
  }

  /** There are no more rows. */
  end(): void {
    this.send(({ stream }) => stream.write(header('c', 0)));
  }

  /** The rows so far do not count: the server fails the COPY with this message. */
  fail(message: string): void {
    if (this.isOver) return;
    const text = Buffer.from(`${message.replaceAll('\0', ' ')}\0`);
    this.send(({ stream }) => stream.write(Buffer.concat([header('f', text.length), text])));
  }

  handleCopyInResponse(): void {
    this.isReady = true;
    for (const send of this.waiting.splice(0)) this.send(send);
  }

  handleCommandComplete({ text }: { readonly text: string }): void {
    this.rows = Number(/^COPY ([0-9]+)/.exec(text)?.[1] ?? 0);
  }

  handleReadyForQuery(): void {
    if (this.isOver) return;
    this.isOver = true;
    this.ended.done(this.rows);
  }

  handleError(error: Error): void {
    if (this.isOver) return;
    this.isOver = true;
    this.ended.failed(error);
  }

  private send(what: (connection: Connection) => void): void {
    if (this.isReady && this.connection !== undefined) what(this.connection);
    else this.waiting.push(what);
  }
}

/** Of CopyData, CopyDone and CopyFail: the letter, and the length with its own four bytes. */
function header(letter: 'd' | 'c' | 'f', length: number): Buffer {
  const bytes = Buffer.allocUnsafe(5);
  bytes.write(letter, 'latin1');
  bytes.writeUInt32BE(length + 4, 1);
  return bytes;
}
