import { CONNECTION_PATTERN } from '../plan/schema.js';

/**
 * The plan of a command that also takes names of connections: an option of many names takes every word up to the next
 * option, the plan behind them too. A file's path has what no name has: a dot, a slash, or it is `-`.
 *
 * @returns The plan and the names. One word alone is left among the names, since the option has been given for it.
 */
export function planBehindNames(
  file: string | undefined,
  names: readonly string[] = [],
): { readonly file: string | undefined; readonly names: readonly string[] } {
  const [path, ...others] = names.filter((name) => !CONNECTION_PATTERN.test(name));
  if (file !== undefined || path === undefined || others.length > 0 || names.length === 1) return { file, names };
  return { file: path, names: names.filter((name) => name !== path) };
}
