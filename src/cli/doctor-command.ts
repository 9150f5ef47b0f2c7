import { VerdigrisError } from '../errors.js';
import { firstLine } from '../failure-text.js';
import type { Plan } from '../plan/schema.js';
import { ALL_TABLES } from '../postgres/catalog-pattern.js';
import { clean } from '../postgres/doctor/clean.js';
import { closeOvertaken, tablesToArm } from '../postgres/doctor/close.js';
import { diagnose, type Finding } from '../postgres/doctor/diagnose.js';
import { withoutHandedOn } from '../postgres/doctor/handed-on.js';
import { examine, isAway, type Found, type Patterns } from '../postgres/doctor/inventory.js';
import type { Liveness } from '../postgres/doctor/liveness.js';
import { openDecided } from '../postgres/doctor/open.js';
import { openBlue, planOpeningBlue } from '../postgres/doctor/open-blue.js';
import {
  describeAction,
  keptAfter,
  migrationOf,
  planCleaning,
  type CleanOptions,
  type CleanPlan,
} from '../postgres/doctor/plan-cleaning.js';
import { judge, whoIsPrimary, type Verdict } from '../postgres/doctor/who-is-primary.js';
import { diagnosePoolers, type AskedAbout } from '../pgbouncer/diagnose.js';
import { examineConsoles, examinePoolers, type PoolerFound } from '../pgbouncer/examine.js';
import { pgBouncersOf } from '../pgbouncer/from-plan.js';
import type { PgBouncer, PgBouncers } from '../pgbouncer/pgbouncer.js';
import type { Databases } from '../postgres/session.js';
import { otherSide } from '../side.js';
import { connectionConfig, databasesOf, secretsOf } from '../worker/connections.js';
import { redactor } from '../worker/redact.js';
import { askLiveness } from './doctor-liveness.js';
import { lookAtReads, readsUnseen, writeFlagsBack, type ReadsLed } from './doctor-reads.js';
import { renderCleanPlan, renderExamination, renderFindings, renderKept, renderVerdict } from './doctor-text.js';
import { tellFindings } from './plan-commands.js';
import { readPlanOfRun } from './read-plan.js';
import { shellQuote } from './shell-quote.js';
import { serverFlags, type ServerFlags } from './start-request.js';
import { CommandError, EXIT, type ExitCode, type Terminal } from './terminal.js';
import { planOfAnother, refusePlanOfAnother } from './whose-plan.js';

export interface DoctorFlags extends ServerFlags {
  readonly blue?: string;
  readonly green?: string;
  readonly json?: boolean;
  readonly whoIsPrimary?: boolean;
  readonly clean?: boolean;
  readonly open?: boolean;
  readonly close?: boolean;
  readonly greenIsGone?: string;
  readonly yes?: boolean;
  readonly releaseBlue?: string;
  readonly releaseGreen?: string;
  readonly dropCopy?: string;
  readonly dropTriggers?: string;
  readonly runIsOver?: string;
  readonly pgbouncer?: readonly string[];
}

/** The two databases that are looked at, and what a plan says of them. */
interface Patient {
  readonly databases: Databases;
  readonly patterns: Patterns;
  readonly name: string | undefined;
  readonly plan: Plan | undefined;
  /** Of the plan; undefined when it names none. */
  readonly poolers: PgBouncers | undefined;
  /** Those that are named on the command line. */
  readonly consoles: readonly Omit<PgBouncer, 'file'>[];
}

/**
 * `verdigris doctor`: what Verdigris has in the two databases, what is wrong and what to do; `--who-is-primary`, `--clean`,
 * `--open` and `--close`. 0 when nothing is wrong (or certain, or done), 1 when something is, 2 when it could not look.
 */
export async function doctorCommand(inner: Terminal, file: string | undefined, flags: DoctorFlags): Promise<ExitCode> {
  const redact = redactor(secretsOf(process.env));
  const modes = [flags.whoIsPrimary, flags.clean, flags.open, flags.close].filter((flag) => flag === true);
  if (modes.length > 1) {
    throw new CommandError('--who-is-primary, --clean, --open and --close are different things', 'give one of them');
  }
  if (flags.greenIsGone !== undefined && flags.open !== true) {
    throw new CommandError('--green-is-gone says what --open may do', 'write --open --green-is-gone NAME');
  }
  const through = (change: (text: string) => string): Terminal => ({
    out: (text) => inner.out(change(redact(text))),
    note: (text) => inner.note(change(redact(text))),
  });
  const patient = await patientOf(
    through((text) => text),
    file,
    flags,
  );
  if (patient === undefined) return EXIT.unusable;
  const complete = completer(patient.databases, file, flags);
  const terminal = through(complete);
  try {
    if (flags.whoIsPrimary === true) return await tellPrimary(terminal, patient, flags);
    if (flags.open === true) {
      return flags.greenIsGone === undefined
        ? await open(terminal, patient, flags)
        : await openWithoutGreen(terminal, patient, flags, flags.greenIsGone);
    }
    if (flags.close === true) return await close(terminal, patient, flags);
    if (flags.clean === true) return await cleanUp(terminal, patient, flags);
    return await tellExamination(terminal, patient, flags);
  } catch (error) {
    if (error instanceof CommandError) throw error;
    const told = (text: string): string => complete(redact(text));
    if (error instanceof VerdigrisError) throw new CommandError(told(error.what), told(error.nextStep), EXIT.refused);
    const message = told(error instanceof Error ? error.message : String(error));
    throw new CommandError(message, 'run verdigris doctor again to see what is there now', EXIT.refused);
  }
}

/** Makes next steps run as they stand: by the databases that were asked about, and the Temporal server. */
function completer({ blue, green }: Databases, file: string | undefined, flags: DoctorFlags): (text: string) => string {
  const about = file === undefined || file === '-' ? ['--blue', blue.connection, '--green', green.connection] : [file];
  const consoles = flags.pgbouncer === undefined ? [] : ['--pgbouncer', ...flags.pgbouncer];
  const words = [...about, ...consoles, ...serverFlags(flags)].map(shellQuote).join(' ');
  // Most of what is said is said as JSON, too: there a quote or backslash of a file's name is escaped.
  const inserted = flags.json === true ? JSON.stringify(words).slice(1, -1) : words;
  return (text) => text.replaceAll(/(?<=verdigris doctor )(?=--(?!blue))/g, () => `${inserted} `);
}

async function patientOf(
  terminal: Terminal,
  file: string | undefined,
  flags: DoctorFlags,
): Promise<Patient | undefined> {
  try {
    const consoles = (flags.pgbouncer ?? []).map((connection) => ({
      connection,
      config: connectionConfig('pgbouncer', connection, process.env),
    }));
    if (file === undefined) {
      if (flags.blue === undefined || flags.green === undefined) {
        throw new CommandError(
          'which databases? give a plan, or the names of both connections',
          'verdigris doctor plan.json, or verdigris doctor --blue NAME --green NAME',
        );
      }
      const connections = { blue: { connection: flags.blue }, green: { connection: flags.green } };
      return {
        databases: databasesOf(connections, process.env),
        patterns: ALL_TABLES,
        name: undefined,
        plan: undefined,
        poolers: undefined,
        consoles,
      };
    }
    const parsed = await readPlanOfRun(file);
    if ('findings' in parsed) {
      tellFindings(terminal, file, parsed.findings);
      return undefined;
    }
    const { plan } = parsed;
    const poolers = pgBouncersOf(plan, process.env);
    const databases = databasesOf(plan, process.env);
    return { databases, patterns: plan.tables, name: plan.name, plan, poolers, consoles };
  } catch (error) {
    if (!(error instanceof VerdigrisError)) throw error;
    throw new CommandError(firstLine(error.message), error.nextStep, EXIT.unusable);
  }
}

async function tellPrimary(terminal: Terminal, { databases }: Patient, flags: DoctorFlags): Promise<ExitCode> {
  const { found, verdict } = await whoIsPrimary(databases);
  terminal.out(flags.json === true ? JSON.stringify(verdict, null, 2) : renderVerdict(verdict));
  return verdict.kind === 'certain' ? EXIT.done : refusedOf(found);
}

async function tellExamination(terminal: Terminal, patient: Patient, flags: DoctorFlags): Promise<ExitCode> {
  const both = await examine(patient.databases, patient.patterns);
  const verdict = judge(both);
  const found = withoutHandedOn(both);
  const liveness = await askLiveness(found, flags, patient.name);
  const poolers = await poolersOf(patient);
  const another = planOfAnother(patient.plan, found, flags);
  const findings = [
    ...(another === undefined ? [] : [another]),
    ...diagnose(found, verdict, liveness),
    ...diagnosePoolers(poolers, askedAbout(patient, found, verdict, liveness)),
  ];
  terminal.out(
    flags.json === true
      ? JSON.stringify({ primary: verdict, run: liveness, ...found, poolers, findings }, null, 2)
      : renderExamination(found, verdict, liveness, findings, poolers),
  );
  if (isUnseen(found)) return EXIT.unusable;
  return findings.some(({ severity }) => severity !== 'note') ? EXIT.refused : EXIT.done;
}

async function poolersOf({ poolers, consoles }: Patient): Promise<PoolerFound[]> {
  return [...(poolers === undefined ? [] : await examinePoolers(poolers)), ...(await examineConsoles(consoles))];
}

async function open(terminal: Terminal, patient: Patient, flags: DoctorFlags): Promise<ExitCode> {
  const { databases } = patient;
  const { found, verdict } = await whoIsPrimary(databases);
  const migration = migrationOf(found);
  if (verdict.kind !== 'nobody' || migration === undefined) {
    terminal.out(
      `${renderVerdict(verdict)}\nnothing is to be opened: --open only finishes a decision that is half done`,
    );
    return verdict.kind === 'certain' ? poolersFollow(terminal, patient, found, verdict, flags) : refusedOf(found);
  }
  terminal.out(renderVerdict(verdict));
  refusePlanOfAnother(patient.plan, found, flags, '--open');
  if (flags.yes !== true) {
    terminal.out(`would open ${verdict.side} for epoch ${verdict.epoch}; add --yes to do it`);
    return EXIT.done;
  }
  await openDecided(databases, migration, verdict);
  const after = await whoIsPrimary(databases);
  terminal.out(renderVerdict(after.verdict));
  if (after.verdict.kind !== 'certain') return EXIT.refused;
  terminal.out('next step: a run that lives goes on by itself; for one that is over: verdigris doctor --clean');
  if (patient.plan === undefined && patient.consoles.length === 0) {
    terminal.out(
      `next step: see that no PgBouncer is paused, and that each leads to ${verdict.side} (--pgbouncer NAME)`,
    );
  }
  return poolersFollow(terminal, patient, after.found, after.verdict, flags);
}

/** A side that is open helps nobody whose PgBouncer is paused, or leads to the other one. Says what is wrong with them. */
async function poolersFollow(
  terminal: Terminal,
  patient: Patient,
  both: Found,
  verdict: Verdict,
  flags: DoctorFlags,
): Promise<ExitCode> {
  const poolers = await poolersOf(patient);
  if (poolers.length === 0) return EXIT.done;
  const found = withoutHandedOn(both);
  const liveness = await askLiveness(found, flags, patient.name);
  const findings = diagnosePoolers(poolers, askedAbout(patient, found, verdict, liveness));
  if (findings.length > 0) terminal.out(renderFindings(findings).join('\n'));
  // Who opens by hand has seen nobody who would lead them: a word of Temporal lets no client go on.
  const isWrong = findings.some(({ severity }) => severity !== 'note');
  return isWrong || poolers.some((pooler) => isHeld(pooler, verdict)) ? EXIT.refused : EXIT.done;
}

/** Its clients wait, or are where no writes are. */
function isHeld(pooler: PoolerFound, verdict: Verdict): boolean {
  if (!pooler.reached) return true;
  const isAstray = verdict.kind === 'certain' && pooler.knownEntries && pooler.leadsTo !== verdict.primary;
  return isAstray || pooler.paused.length > 0;
}

function wrongWith(poolers: readonly PoolerFound[], asked: AskedAbout): readonly Finding[] {
  return diagnosePoolers(poolers, asked).filter(({ severity }) => severity !== 'note');
}

function askedAbout({ name, poolers }: Patient, found: Found, verdict: Verdict, liveness: Liveness): AskedAbout {
  return { verdict, liveness, migration: name ?? migrationOf(found), aliases: poolers?.aliases };
}

/** Green is lost for good, a person says. */
async function openWithoutGreen(
  terminal: Terminal,
  { databases, patterns, name }: Patient,
  flags: DoctorFlags,
  confirmed: string,
): Promise<ExitCode> {
  const found = await examine(databases, patterns);
  const plan = await planOpeningBlue(databases, found, await askLiveness(found, flags, name), confirmed, patterns);
  if (plan.refused) {
    terminal.out(`refused: ${plan.why}\nnext step: ${plan.next}`);
    return refusedOf(found);
  }
  if (flags.yes !== true) {
    terminal.out(`would open blue without green, and lose ${plan.loses}; add --yes to do it`);
    return EXIT.done;
  }
  const { epoch, leaves } = await openBlue(databases, plan);
  for (const one of leaves) terminal.out(`note    sequence ${one}`);
  terminal.out(
    `done    blue: opened at epoch ${epoch}. Lost: ${plan.loses}\nnext step: see that PgBouncers and all that does not ask the route lead to blue. If green ever comes back, it must not take writes: verdigris doctor --close --yes, before anybody reaches it`,
  );
  return EXIT.done;
}

async function close(terminal: Terminal, { databases, plan }: Patient, flags: DoctorFlags): Promise<ExitCode> {
  const { found, verdict } = await whoIsPrimary(databases);
  const migration = migrationOf(found);
  if (verdict.kind !== 'both' || migration === undefined) {
    terminal.out(`${renderVerdict(verdict)}\nnothing is to be closed: --close only closes a side that was overtaken`);
    return verdict.kind === 'certain' ? EXIT.done : refusedOf(found);
  }
  terminal.out(renderVerdict(verdict));
  refusePlanOfAnother(plan, found, flags, '--close');
  const side = otherSide(verdict.truth);
  const one = found[side];
  if (!one.reached || one.inventory.route === null) {
    terminal.out(`refused: ${side} has nothing of Verdigris that could be closed`);
    return EXIT.refused;
  }
  if (flags.yes !== true) {
    const tables = await tablesToArm(databases, side, plan?.tables);
    terminal.out(
      `would close ${side}, since writes belong to ${verdict.truth} at epoch ${verdict.epoch}, and stop the writers of ${inWords(tables)}; add --yes to do it`,
    );
    return EXIT.done;
  }
  await closeOvertaken(databases, migration, verdict, plan?.tables);
  const after = await whoIsPrimary(databases);
  terminal.out(renderVerdict(after.verdict));
  return after.verdict.kind === 'certain' ? EXIT.done : EXIT.refused;
}

function inWords(tables: readonly string[]): string {
  const more = tables.length - LISTED;
  return `${tables.slice(0, LISTED).join(', ')}${more > 0 ? ` and ${more} more tables` : ''}`;
}

/** More names than that say less. */
const LISTED = 100;

async function cleanUp(terminal: Terminal, patient: Patient, flags: DoctorFlags): Promise<ExitCode> {
  const { databases } = patient;
  const both = await examine(databases, patient.patterns);
  const verdict = judge(both);
  const found = withoutHandedOn(both);
  refusePlanOfAnother(patient.plan, found, flags, '--clean');
  const liveness = await askLiveness(found, flags, patient.name);
  const bare = planCleaning(found, verdict, liveness, cleanOptions(flags));
  if (bare.refused) {
    refuse(terminal, flags, bare);
    return refusedOf(found);
  }
  const reads = await readsOf(patient, found, bare);
  if (reads.refused) return refuse(terminal, flags, reads);
  const plan = { ...bare, kept: [...bare.kept, ...(patient.plan === undefined ? readsUnseen(found) : [])] };
  const path = reads.flags?.path;
  // No run is left that would let their clients go on, and when all is removed nobody can say where writes are any more.
  const looked = await poolersOf(patient);
  const asked = askedAbout(patient, found, verdict, liveness);
  const poolers = wrongWith(looked, asked);
  const said = poolers.length === 0 ? [] : renderFindings(poolers);
  if (flags.yes !== true) {
    terminal.out(
      flags.json === true
        ? JSON.stringify({ dryRun: true, run: liveness, flagd: path, ...plan, poolers }, null, 2)
        : [
            `run ${liveness.why}`,
            renderCleanPlan(plan, path),
            ...(plan.actions.length === 0 ? [] : ['add --yes to do it']),
            ...said,
          ].join('\n'),
    );
    return isOneAway(found) ? EXIT.refused : EXIT.done;
  }
  // Before anything is done: from the end of the feed on, green's rows are old.
  const written = reads.flags === undefined ? undefined : await writeFlagsBack(reads.flags);
  if (written?.failed === true) {
    const next = 'mend that, and clean up then: until it is written, its users read as before';
    return refuse(terminal, flags, { refused: true, why: written.what, next });
  }
  if (written !== undefined && flags.json !== true) terminal.out(`done    ${written.what}`);
  const results = await clean(databases, found, plan.actions);
  const done = results.flatMap(({ action, failed }) => (failed === null ? [action] : []));
  const kept = keptAfter(plan.kept, done);
  if (flags.json === true) {
    terminal.out(JSON.stringify({ dryRun: false, flagd: path, results, kept, poolers }, null, 2));
  } else {
    for (const { action, failed } of results) {
      terminal.out(
        `${failed === null ? 'done  ' : 'FAILED'}  ${describeAction(action)}${failed === null ? '' : `: ${failed}`}`,
      );
    }
    const nothing = results.length === 0 ? ['nothing is left that has to go'] : [];
    terminal.out([...nothing, ...renderKept(kept), ...said].join('\n'));
  }
  const reached = looked.filter((pooler) => pooler.reached);
  const areHeld = wrongWith(reached, asked).some(({ severity }) => severity === 'problem');
  return areHeld || isOneAway(found) || results.some(({ failed }) => failed !== null) ? EXIT.refused : EXIT.done;
}

function refuse(terminal: Terminal, { json }: DoctorFlags, refusal: Extract<CleanPlan, { refused: true }>): ExitCode {
  terminal.out(json === true ? JSON.stringify(refusal, null, 2) : renderCleanPlan(refusal));
  return EXIT.refused;
}

/** What is led past the route: looked at only where something of the run is left. */
async function readsOf(
  { plan }: Patient,
  found: Found,
  { actions }: Extract<CleanPlan, { refused: false }>,
): Promise<ReadsLed> {
  if (plan === undefined || actions.length === 0) return { refused: false };
  return lookAtReads(plan, found, process.env);
}

/** Whoever has seen neither side knows nothing: whoever asked by a script can ask again. */
function refusedOf(found: Found): ExitCode {
  return isUnseen(found) ? EXIT.unusable : EXIT.refused;
}

function isUnseen({ blue, green }: Found): boolean {
  return isAway(blue) && isAway(green);
}

/** A side that is away may hold leftovers that nobody has seen. */
function isOneAway({ blue, green }: Found): boolean {
  return isAway(blue) || isAway(green);
}

function cleanOptions(flags: DoctorFlags): CleanOptions {
  return {
    release: {
      ...(flags.releaseBlue === undefined ? {} : { blue: flags.releaseBlue }),
      ...(flags.releaseGreen === undefined ? {} : { green: flags.releaseGreen }),
    },
    ...(flags.dropCopy === undefined ? {} : { dropCopy: flags.dropCopy }),
    ...(flags.dropTriggers === undefined ? {} : { dropTriggers: flags.dropTriggers }),
  };
}
