import type { TableName } from '../../plan/table-name.js';
import { qualified } from '../identifier.js';

/*
 * How pg_dump is told what it leaves out. It asks the server once for each pattern: for one that is a name the server has an
 * index, while one of many names is a regular expression that it compares with every relation, which takes longer.
 */

/** What a pg_dump is given so that it leaves something out. */
export interface LeavingOut {
  readonly args: readonly string[];
  /** Its standard input; empty for none. */
  readonly input: string;
}

/** The first pg_dump with --filter. */
const FILTER_SINCE = 17;

/** For a pg_dump without it, in bytes: a system refuses a command line that is with its environment longer than 1 or 2 MB. */
const MOST_ARGUMENTS = 500_000;

/**
 * By a filter where this pg_dump knows one, else by arguments.
 *
 * @param major its version
 * @returns undefined when the names are too many for its arguments
 */
export function leavingOut(relations: readonly TableName[], major: number): LeavingOut | undefined {
  if (major >= FILTER_SINCE) return leavingOutByFilter(relations);
  // In double quotes nothing in a pattern is special.
  const args = relations.map((relation) => `--exclude-table=${qualified(relation)}`);
  return Buffer.byteLength(args.join(' ')) > MOST_ARGUMENTS ? undefined : { args, input: '' };
}

/** By standard input, which has room for any number. In double quotes a filter reads backslashes, and a line ends a rule. */
export function leavingOutByFilter(relations: readonly TableName[]): LeavingOut {
  if (relations.length === 0) return { args: [], input: '' };
  const escaped = (pattern: string): string => pattern.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
  const rules = relations.map((relation) => `exclude table ${escaped(qualified(relation))}\n`);
  return { args: ['--filter=-'], input: rules.join('') };
}
