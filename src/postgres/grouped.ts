/** Values that have the same key, each group with its first one. */
export function grouped<T>(values: readonly T[], keyOf: (value: T) => unknown): [T, T[]][] {
  const groups = new Map<unknown, [T, T[]]>();
  for (const value of values) {
    const group = groups.get(keyOf(value));
    if (group === undefined) groups.set(keyOf(value), [value, [value]]);
    else group[1].push(value);
  }
  return [...groups.values()];
}
