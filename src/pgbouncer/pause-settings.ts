/** What a pause changes for all entries, in this order: see becomeQuiet() of instance.ts. */
export const SETTINGS_OF_PAUSE = [
  ['server_login_retry', 0],
  ['min_pool_size', 0],
  ['max_db_connections', 1],
] as const;

/** Whether these settings are those of a pause, which RELOAD ends and RESUME does not; in words, or undefined. */
export function settingsOfPause(settings: ReadonlyMap<string, string>): string | undefined {
  const isSet = SETTINGS_OF_PAUSE.every(([name, value]) => Number(settings.get(name) ?? NaN) === value);
  return isSet ? SETTINGS_OF_PAUSE.map(([name, value]) => `${name} = ${value}`).join(', ') : undefined;
}
