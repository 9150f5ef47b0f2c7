/*
 * Messages of the PostgreSQL frontend/backend protocol 3.0, as far as a relay needs them: one type byte and a length.
 * https://www.postgresql.org/docs/current/protocol-message-formats.html
 */

export interface WireMessage {
  /** The type byte as a character; '' for the startup packet, which has none. */
  readonly type: string;
  /** The whole message, head included. */
  readonly bytes: Buffer;
}

/** Cuts a stream of bytes into messages; a message that is not complete yet is kept for the next call. */
export class MessageSplitter {
  #rest: Buffer = Buffer.alloc(0);
  #untyped: boolean;

  /** @param startsUntyped whether the first message is a startup packet: what a client sends. */
  constructor(startsUntyped: boolean) {
    this.#untyped = startsUntyped;
  }

  push(chunk: Uint8Array): WireMessage[] {
    const buffer = Buffer.concat([this.#rest, chunk]);
    const messages: WireMessage[] = [];
    let offset = 0;
    for (;;) {
      const head = this.#untyped ? 0 : 1;
      if (buffer.length - offset < head + 4) break;
      const length = head + buffer.readUInt32BE(offset + head);
      if (buffer.length - offset < length) break;
      messages.push({
        type: this.#untyped ? '' : String.fromCharCode(buffer[offset] ?? 0),
        bytes: buffer.subarray(offset, offset + length),
      });
      this.#untyped = false;
      offset += length;
    }
    this.#rest = buffer.subarray(offset);
    return messages;
  }
}

/** What a server sends to a client that has logged in: ok, its parameters, a cancel key, ready. */
export function greeting(parameters: ReadonlyMap<string, string>): Buffer {
  return Buffer.concat([
    message('R', Buffer.alloc(4)),
    ...[...parameters].map(([name, value]) => message('S', Buffer.from(`${name}\0${value}\0`))),
    // Nobody cancels by this key: the real connection has its own.
    message('K', Buffer.alloc(8)),
    message('Z', Buffer.from('I')),
  ]);
}

function message(type: string, body: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.write(type, 0, 'latin1');
  head.writeUInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}
