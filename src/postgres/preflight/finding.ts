import { LONGEST_QUOTED, shortened } from '../../failure-text.js';
import type { Side } from '../../side.js';

/** Something that a person should know before a run begins. */
export interface PreflightFinding {
  /** `error`: the run does not begin. `warning`: it begins, and somebody should look. `info`: for the record. */
  readonly severity: 'error' | 'warning' | 'info';
  /** Name of the check; docs/preflight.md has a row of the same name. */
  readonly check: string;
  readonly side: Side | 'both';
  /** What it is about: a table, a setting, a role, a process. */
  readonly object: string;
  readonly message: string;
  /** What to do about it. */
  readonly remedy: string;
}

export interface PreflightReport {
  /** Errors first. */
  readonly findings: readonly PreflightFinding[];
}

/** Whether the run may begin. */
export function isReady(report: PreflightReport): boolean {
  return report.findings.every(({ severity }) => severity !== 'error');
}

/** At most so many names in one message: the report stays readable, and below the limits of a workflow's history. */
const NAMES_SHOWN = 8;

/** `a, b and 3 more` */
export function listed(names: readonly string[]): string {
  const shown = names.slice(0, NAMES_SHOWN).join(', ');
  return names.length > NAMES_SHOWN ? `${shown} and ${names.length - NAMES_SHOWN} more` : shown;
}

/** So many findings of one check are told in full; where they are too long together, fewer. */
const TOLD = [20, 5, 1];

/** As JSON, in bytes. A failure has all of it twice, in its message and in its details, and Temporal takes 2 MB of one. */
const MOST_BYTES = 100_000;

/**
 * The findings as the history of a run has room for them: the first of each check, and one more that names those which are as
 * these. A database may have thousands of tables that lack the same.
 */
export function summarized(findings: readonly PreflightFinding[]): PreflightFinding[] {
  const short = findings.map(shorten);
  let told: PreflightFinding[] = [];
  for (const most of TOLD) {
    told = firstOfEach(short, most);
    if (Buffer.byteLength(JSON.stringify(told)) <= MOST_BYTES) break;
  }
  return told;
}

function shorten(finding: PreflightFinding): PreflightFinding {
  const { object, message, remedy } = finding;
  const cut = (text: string): string => shortened(text, LONGEST_QUOTED);
  return { ...finding, object: cut(object), message: cut(message), remedy: cut(remedy) };
}

function firstOfEach(findings: readonly PreflightFinding[], most: number): PreflightFinding[] {
  const groups = new Map<string, PreflightFinding[]>();
  for (const finding of findings) {
    const key = [finding.severity, finding.side, finding.check].join();
    const group = groups.get(key) ?? [];
    groups.set(key, group);
    group.push(finding);
  }
  return [...groups.values()].flatMap((group) => {
    const [more, ...others] = group.slice(most);
    if (more === undefined) return group;
    return others.length === 0 ? group : [...group.slice(0, most), andMore(more, [more, ...others])];
  });
}

function andMore({ severity, check, side }: PreflightFinding, others: readonly PreflightFinding[]): PreflightFinding {
  return {
    ...{ severity, check, side },
    object: listed(others.map(({ object }) => object)),
    message: `the check found ${others.length} more of its kind than those that are told one by one`,
    remedy: 'The same for each of them: `verdigris preflight FILE` tells all',
  };
}
