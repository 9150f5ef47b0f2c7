import { createWriteStream, type WriteStream } from 'node:fs';
import { once } from 'node:events';
import type { Side } from '../../side.js';

/** A write that the application has asked for. */
export interface IntendedWrite {
  readonly reference: string;
  readonly userId: number;
  /** In cents: compared exactly. */
  readonly cents: number;
  readonly payload: string;
}

/** A write that a database has acknowledged. */
export interface AcknowledgedWrite extends IntendedWrite {
  readonly id: string;
  readonly side: Side;
  readonly at: Date;
}

/**
 * What the application has asked for and what it was told, kept outside of both databases: in memory and, line by line,
 * in a file. The audit at the end holds the databases against it.
 */
export class WriteLedger {
  readonly acknowledged: AcknowledgedWrite[] = [];
  /** Writes that were reported as failed: none of them may be there. */
  readonly failed: IntendedWrite[] = [];
  readonly #lastByUser = new Map<number, AcknowledgedWrite>();
  readonly #file: WriteStream | undefined;

  constructor(file?: string) {
    this.#file = file === undefined ? undefined : createWriteStream(file, { flags: 'a' });
  }

  intend(write: IntendedWrite): void {
    this.#append({ intended: write.reference, cents: write.cents, user: write.userId });
  }

  acknowledge(write: AcknowledgedWrite): void {
    this.acknowledged.push(write);
    this.#lastByUser.set(write.userId, write);
    this.#append({ acknowledged: write.reference, side: write.side });
  }

  fail(write: IntendedWrite, failure: string): void {
    this.failed.push(write);
    this.#append({ failed: write.reference, failure });
  }

  /** The latest acknowledged write of a user: the user's next read must find it. */
  lastOf(userId: number): AcknowledgedWrite | undefined {
    return this.#lastByUser.get(userId);
  }

  async close(): Promise<void> {
    if (this.#file === undefined) return;
    this.#file.end();
    await once(this.#file, 'close');
  }

  #append(line: object): void {
    this.#file?.write(`${JSON.stringify({ at: new Date().toISOString(), ...line })}\n`);
  }
}
