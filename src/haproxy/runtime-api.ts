import { connect, type Socket } from 'node:net';
import { VerdigrisError } from '../errors.js';
import { connectionVariable } from '../postgres/session.js';
import { sqlState } from '../postgres/sqlstate.js';
import { answerWithin } from '../timing.js';
import type { Haproxy } from './haproxy.js';

/** A runtime API answers in well under a millisecond; one that does not within this is not waited for. */
const ANSWER_MS = 1_000;

/**
 * Gives a command to the runtime API of one HAProxy, over a connection of its own, and returns the whole answer. Several
 * commands are joined by `;`: they run one after the other.
 *
 * @param mayStillSend asked when the connection is there, right before the command is sent
 * @returns undefined when it was not sent any more
 * @throws VerdigrisError ConnectionFailed, which names the connection, never its address
 */
export async function ask(haproxy: Haproxy, command: string, mayStillSend: () => boolean): Promise<string | undefined>;
export async function ask(haproxy: Haproxy, command: string): Promise<string>;
export async function ask(
  haproxy: Haproxy,
  command: string,
  mayStillSend: () => boolean = () => true,
): Promise<string | undefined> {
  const socket = connect(haproxy.address);
  try {
    return await answerWithin(
      ANSWER_MS,
      exchange(socket, command, mayStillSend),
      () => new Error(`no answer within ${ANSWER_MS} ms`),
    );
  } catch (error) {
    throw notAnswered(haproxy, error);
  } finally {
    socket.destroy();
  }
}

/** Whether nothing listens there: the process has ended, and begins with the weights of its configuration. */
export function isNotRunning(error: unknown): boolean {
  if (!(error instanceof VerdigrisError) || error.type !== 'ConnectionFailed') return false;
  const state = sqlState(error.cause);
  return state === 'ECONNREFUSED' || state === 'ENOENT';
}

function exchange(socket: Socket, command: string, mayStillSend: () => boolean): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    let answer = '';
    socket.setEncoding('utf8');
    socket.once('connect', () => {
      if (mayStillSend()) socket.write(`${command}\n`);
      else resolve(undefined);
    });
    socket.on('data', (text: string) => (answer += text));
    socket.on('error', reject);
    // Every answer ends with an empty line: a process that ends before has perhaps not done what it was told.
    socket.once('end', () => {
      if (answer.endsWith('\n')) resolve(answer);
      else reject(new Error('the answer broke off'));
    });
    socket.once('close', () => reject(new Error('the connection was closed')));
  });
}

function notAnswered(haproxy: Haproxy, error: unknown): VerdigrisError {
  const state = sqlState(error);
  // The message of a socket's error holds the address.
  const why = state !== undefined ? (REASONS[state] ?? 'no connection') : error instanceof Error ? error.message : '';
  return new VerdigrisError({
    type: 'ConnectionFailed',
    message: `the runtime API of HAProxy "${haproxy.connection}" can't be asked: ${why}${state === undefined ? '' : ` (${state})`}`,
    nextStep: `see that it runs, and that VERDIGRIS_CONNECTION_${connectionVariable(haproxy.connection)} leads to its "stats socket" where the worker runs`,
    retryable: true,
    cause: error,
  });
}

const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there',
  ENOENT: 'there is no such socket',
  EACCES: 'this user may not open the socket',
  ENOTFOUND: 'the host name is not known',
  ECONNRESET: 'the connection was cut',
  EPIPE: 'the connection was cut',
};
