import type { Plan } from '../../plan/schema.js';
import type { TableName } from '../../plan/table-name.js';
import { VerdigrisError } from '../../errors.js';
import { withoutNextStep } from '../../failure-text.js';
import { readTables, type TableInfo } from '../catalog.js';
import { excludedRelations } from '../schema-copy/excluded-relations.js';
import { withoutSecrets } from '../scrub.js';
import { closeSession, connectionVariable, openSession, type Database, type Session } from '../session.js';
import { oneRow, type BootstrapMethod, type SideCheck, type SideContext } from './check.js';
import { PAIR_CHECKS, SIDE_CHECKS } from './checks.js';
import type { PreflightFinding, PreflightReport } from './finding.js';
import { connectionParameters, ofIgnoredParameters, OLDEST, serverVersion } from './server.js';

export type { PreflightFinding, PreflightReport } from './finding.js';

export interface PreflightInput {
  readonly blue: Database;
  readonly green: Database;
  readonly plan: Plan;
  readonly runId: string;
  readonly signal?: AbortSignal;
  /** How long each server may try to reach the other one. Default 15 s. */
  readonly reachWithinMs?: number;
}

/** No single question may take longer: a lock that somebody holds must not hold up the report. */
const QUESTION_MS = 30_000;

/** The same of checks that only warn: many tables or functions must not hold up the report for what refuses nothing. */
const LOOK_MS = 10_000;

/**
 * Phase 1: asks both databases everything that could stop the run later, and reports all of it at once. A side that
 * can't be reached is one finding, and the other side is still looked at; a check that fails is a finding, too.
 * Nothing is left behind in either database.
 */
export async function preflight(input: PreflightInput): Promise<PreflightReport> {
  const sessions: Session[] = [];
  try {
    const [blue, green] = await Promise.all([
      openSide(input, input.blue, sessions),
      openSide(input, input.green, sessions),
    ]);
    const bySide = await Promise.all(
      [blue, green].map((side) => ('context' in side ? checkSide(input, side.context) : side.findings)),
    );
    const areAsked = 'context' in blue && 'context' in green && [blue, green].every(({ context }) => isKnown(context));
    const ofPair = areAsked ? await checkPair(input, blue.context, green.context) : [];
    return { findings: [...bySide.flat(), ...ofPair].sort(bySeverity) };
  } finally {
    await Promise.all(sessions.map(closeSession));
  }
}

type OpenSide = { readonly context: SideContext } | { readonly findings: readonly PreflightFinding[] };

async function openSide(input: PreflightInput, database: Database, sessions: Session[]): Promise<OpenSide> {
  const { plan, runId } = input;
  const { side } = database;
  try {
    const session = await openSession(database, { purpose: 'preflight', statementTimeoutMs: QUESTION_MS });
    sessions.push(session);
    const { version, superuser } = await oneRow<{ version: number; superuser: boolean }>(
      session,
      `SELECT current_setting('server_version_num')::int / 10000 AS version,
              (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser`,
    );
    let tables: Promise<readonly TableInfo[]> | undefined;
    let excluded: Promise<readonly TableName[]> | undefined;
    const readOnce = {
      tables: (): Promise<readonly TableInfo[]> => (tables ??= readTables(session, plan.tables)),
      excluded: (): Promise<readonly TableName[]> => (excluded ??= excludedRelations(session, plan.tables)),
    };
    return { context: { side, database, session, plan, runId, version, isSuperuser: superuser, ...readOnce } };
  } catch (error) {
    const ignored = ofIgnoredParameters(database);
    const ofParameters = ignored.map((found) => ({ check: connectionParameters.name, side, ...found }));
    return { findings: [notConnected(database, error), ...ofParameters] };
  }
}

function notConnected(database: Database, error: unknown): PreflightFinding {
  const known = error instanceof VerdigrisError ? error : undefined;
  const message = withoutNextStep(withoutSecrets(error, [database]));
  return {
    severity: 'error',
    check: 'connection',
    side: database.side,
    object: database.connection,
    message,
    remedy: capitalized(known?.nextStep ?? `check VERDIGRIS_CONNECTION_${connectionVariable(database.connection)}`),
  };
}

async function checkSide(input: PreflightInput, context: SideContext): Promise<PreflightFinding[]> {
  const findings: PreflightFinding[] = [];
  for (const check of SIDE_CHECKS) {
    const { name, sides, methods, run } = check;
    input.signal?.throwIfAborted();
    if (!sides.includes(context.side) || !isAsked(input, methods)) continue;
    if (!isKnown(context) && name !== serverVersion.name) continue;
    try {
      const found = await (check.onlyWarns === true ? briefly(context.session, () => run(context)) : run(context));
      findings.push(...found.map((one) => ({ check: name, side: context.side, ...one })));
    } catch (error) {
      findings.push(checkFailed(input, check, context.side, error));
    }
  }
  return findings;
}

async function briefly<T>(session: Session, look: () => Promise<T>): Promise<T> {
  const allow = `SELECT set_config('statement_timeout', $1, false)`;
  await session.query(allow, [String(LOOK_MS)]);
  try {
    return await look();
  } finally {
    await session.query(allow, [String(QUESTION_MS)]);
  }
}

/** What else an older server lacks is no news, and some questions it would not understand. */
function isKnown({ version }: SideContext): boolean {
  return version >= OLDEST;
}

function isAsked({ plan }: PreflightInput, methods: readonly BootstrapMethod[] | undefined): boolean {
  return methods === undefined || methods.includes(plan.bootstrap.method);
}

async function checkPair(input: PreflightInput, blue: SideContext, green: SideContext): Promise<PreflightFinding[]> {
  const findings: PreflightFinding[] = [];
  for (const { name, methods, run } of PAIR_CHECKS) {
    input.signal?.throwIfAborted();
    if (!isAsked(input, methods)) continue;
    try {
      const pair = { blue, green, reachWithinMs: input.reachWithinMs ?? 15_000 };
      findings.push(...(await run(pair)).map((found) => ({ check: name, ...found })));
    } catch (error) {
      findings.push(checkFailed(input, { name }, 'both', error));
    }
  }
  return findings;
}

/**
 * What could not be asked is not known to be right: the run does not begin on a guess. Not knowing what would only have
 * warned is no reason to refuse either.
 */
function checkFailed(
  { blue, green }: PreflightInput,
  { name, onlyWarns = false }: Pick<SideCheck, 'name' | 'onlyWarns'>,
  side: PreflightFinding['side'],
  error: unknown,
): PreflightFinding {
  const why = withoutSecrets(error, [blue, green]);
  const [severity, message, remedy] = onlyWarns
    ? ([
        'warning',
        `what ${name} warns of could not be looked at: ${why}`,
        'See what PostgreSQL says. The run may begin; what the check looks for is in docs/preflight.md',
      ] as const)
    : ([
        'error',
        `the check ${name} could not be made: ${why}`,
        'See what PostgreSQL says: a missing privilege is granted, a lock is let go; then start again',
      ] as const);
  return { severity, check: 'check-failed', side, object: name, message, remedy };
}

const RANK = { error: 0, warning: 1, info: 2 } as const;

function bySeverity(a: PreflightFinding, b: PreflightFinding): number {
  return RANK[a.severity] - RANK[b.severity];
}

function capitalized(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
