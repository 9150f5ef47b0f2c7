import type { PreflightFinding } from '../postgres/preflight/finding.js';
import { formatInstant } from './local-time.js';
import type { Plan, Windows } from './schema.js';
import { windowState, type WindowOf } from './window-times.js';

/** The checks of a plan's windows, by name; docs/preflight.md has a row for each. */
export const WINDOW_CHECKS = ['windows'] as const;

const DAY_MS = 86_400_000;
/** Whoever writes weekly windows hardly means to wait for longer: two weeks of holidays in a row are. */
const LONG_DAYS = 14;

/**
 * Whether each window of the plan opens at all, and how soon: it is waited for only hours or days later, when all rows
 * have been copied. A plan without windows has no findings.
 *
 * @param now ms since 1970
 */
export function checkWindows({ windows }: Plan, now: number): PreflightFinding[] {
  if (windows === undefined) return [];
  const all: readonly WindowOf[] = ['replicate', 'migrate', 'traffic', 'promote'];
  return all.filter((what) => windows[what] !== undefined).flatMap((what) => ofWindow(windows, what, now));
}

function ofWindow(windows: Windows, what: WindowOf, now: number): PreflightFinding[] {
  const found = { check: 'windows', side: 'both', object: `windows.${what}` } as const;
  const remedy = 'Mend the windows or the holidays of the plan, if that is not meant';
  const text = (at: number): string => formatInstant(windows.timezone, at);
  let openUntil: number | undefined;
  try {
    const first = windowState(windows, what, now);
    // The copy begins now; for what comes later, the window that is open now may have ended.
    if (first.open && what === 'replicate') return [];
    if (first.open) openUntil = first.closesAt;
    const next = openUntil === undefined ? first : windowState(windows, what, openUntil);
    if (next.open) return [];
    const days = Math.floor((next.opensAt - (openUntil ?? now)) / DAY_MS);
    if (days <= LONG_DAYS) return [];
    const since = openUntil === undefined ? 'it is closed' : `it is open until ${text(openUntil)}, and closed then`;
    return [
      { ...found, severity: 'warning', message: `${since} for ${days} days, until ${text(next.opensAt)}`, remedy },
    ];
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    if (openUntil === undefined) return [{ ...found, severity: 'error', message: error.message, remedy }];
    const message = `it is open until ${text(openUntil)}; after that, ${error.message}`;
    return [{ ...found, severity: 'warning', message, remedy }];
  }
}
