import { DefaultLogger, type LogEntry, type LogLevel } from '@temporalio/worker';
import { pino, type Logger } from 'pino';
import pretty from 'pino-pretty';
import type { Environment } from './connections.js';
import type { Redact } from './redact.js';
import { unlessEmpty } from './secret-file.js';

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error'] as const;

export type LoggerLevel = (typeof LOG_LEVELS)[number];

/**
 * What `VERDIGRIS_LOG_LEVEL` asks for. Default: `info`.
 *
 * @throws Error when it is none of `trace`, `debug`, `info`, `warn`, `error`
 */
export function levelOf(environment: Environment): LoggerLevel {
  const asked = unlessEmpty(environment['VERDIGRIS_LOG_LEVEL'])?.toLowerCase() ?? 'info';
  const level = LOG_LEVELS.find((one) => one === asked);
  if (level === undefined) {
    throw new Error(`VERDIGRIS_LOG_LEVEL is "${asked}": write one of ${LOG_LEVELS.join(', ')}`);
  }
  return level;
}

/** JSON lines for machines, or readable lines on a terminal; never a secret in either. */
export function createLogger(redact: Redact, level: LoggerLevel): Logger {
  const options = { level, base: { service: 'verdigris' } };
  const target = process.stdout.isTTY
    ? pretty({ colorize: true, ignore: 'pid,hostname,service', sync: true })
    : { write: (line: string): void => void process.stdout.write(line) };
  return pino(options, { write: (line: string): void => void target.write(redact(line)) });
}

const LEVELS: Readonly<Record<LogLevel, LoggerLevel>> = {
  TRACE: 'trace',
  DEBUG: 'debug',
  INFO: 'info',
  WARN: 'warn',
  ERROR: 'error',
};

/** Temporal's logger on ours: its SDK, workflows and activities write into the same stream. */
export function temporalLogger(logger: Logger): DefaultLogger {
  return new DefaultLogger('DEBUG', ({ level, message, meta }: LogEntry) => {
    logger[LEVELS[level]](plain(meta), message);
  });
}

/** Errors as objects that JSON keeps. */
function plain(meta: LogEntry['meta']): object {
  if (meta === undefined) return {};
  return Object.fromEntries(
    Object.entries(meta).map(([key, value]: [string, unknown]) => [
      key,
      value instanceof Error ? { type: value.name, message: value.message, stack: value.stack } : value,
    ]),
  );
}
