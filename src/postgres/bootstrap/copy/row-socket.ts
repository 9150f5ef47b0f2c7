import { Socket, type OnReadOpts, type SocketConstructorOpts } from 'node:net';
import type { Duplex } from 'node:stream';

/*
 * A socket that reads into buffers of its own, again and again. Node makes a new one for each read otherwise, and tells
 * the garbage collector of each: in a worker, whose heap is large, that was a third of the CPU time of a copy.
 */

/** Is given bytes as they come, and calls `release` when it needs them no more: the buffer is read into again then. */
export type TakeBytes = (bytes: Buffer, release: () => void) => void;

/** As much as one read may bring. */
const READ_BYTES = 128 * 2 ** 10;

const takers = new WeakMap<Duplex, { take: TakeBytes | undefined }>();

/** For `stream` of pg's configuration. Not for TLS, which reads from the socket in another way. */
export function rowSocket(): Socket {
  const free: Buffer[] = [];
  const taker: { take: TakeBytes | undefined } = { take: undefined };
  const onread: OnReadOpts = {
    buffer: () => free.pop() ?? Buffer.allocUnsafeSlow(READ_BYTES),
    callback: (length, buffer) => {
      const whole = buffer as Buffer;
      const release = (): void => void free.push(whole);
      if (taker.take !== undefined) taker.take(whole.subarray(0, length), release);
      else {
        socket.emit('data', Buffer.from(whole.subarray(0, length)));
        release();
      }
      return true;
    },
  };
  // Documented for connect(), which pg calls itself; the constructor takes it from there.
  const options: SocketConstructorOpts & { readonly onread: OnReadOpts } = { onread };
  const socket = new Socket(options);
  takers.set(socket, taker);
  return socket;
}

/**
 * Everything that the stream reads is given to `take`, in place of its one listener.
 *
 * @returns gives it back to that listener.
 */
export function takeBytes(stream: Duplex, take: TakeBytes): () => void {
  const taker = takers.get(stream);
  if (taker !== undefined) {
    taker.take = take;
    return () => (taker.take = undefined);
  }
  const [listener] = stream.listeners('data') as [(chunk: Buffer) => void];
  const read = (chunk: Buffer): void => take(chunk, () => undefined);
  stream.removeListener('data', listener);
  stream.on('data', read);
  return () => {
    stream.removeListener('data', read);
    stream.on('data', listener);
  };
}
