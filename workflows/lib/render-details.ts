import { NEXT_STEP } from '../../src/failure-text.js';
import { progressLine } from '../../src/progress.js';
import { workflowIdOf } from '../../src/workflow-names.js';
import {
  doesNow,
  heldFor,
  lagNow,
  notConfirmed,
  PHASES,
  type MigrationStatus,
  type Phase,
  type Waiting,
} from './status.js';

/** The current details of a run, in the Markdown that the Web UI shows: lists and code, since its tables have no padding. */
export function renderDetails(status: MigrationStatus): string {
  return [
    `## ${headline(status)}`,
    '',
    ...endLines(status),
    ...waitingLines(status),
    ...heldLines(status),
    `- **Writes** on ${status.writesOn}`,
    `- **Reads on green** ${readsOnGreen(status)}`,
    ...lagLine(status),
    `- **Rollback** ${status.rollback.safe ? 'safe' : 'NOT safe'}: ${status.rollback.why}`,
    ...(status.rollback.loses === undefined ? [] : [`- **A rollback would lose** ${status.rollback.loses}`]),
    ...(status.alarms ?? []).map(({ why, next, since }) => `- **Alarm** since ${since}: ${why}. Next step: ${next}`),
    ...verificationLine(status),
    ...promotionLine(status),
    ...section('Progress', status.progress.map(progressLine)),
    '',
    '### Phases',
    ...PHASES.map((phase) => phaseLine(status, phase)),
    ...rollbackLines(status),
    ...section('Warnings', status.warnings.slice(-10)),
    ...section(
      'Messages',
      status.decisions
        .slice(-10)
        .map(
          (d) =>
            `${d.at} ${d.message}${d.gate === undefined ? '' : ` ${d.gate}`} by ${d.by}: ${d.reason}${d.ignored === undefined ? '' : ` (ignored: ${d.ignored})`}`,
        ),
    ),
  ].join('\n');
}

function headline(status: MigrationStatus): string {
  const { name, outcome } = status;
  return `${name}: ${outcome === 'running' ? doesNow(status) : outcome}`;
}

/** How it has ended; a list of findings as it is, with a paragraph of its own for the next step. */
function endLines({ outcome, now, failure }: MigrationStatus): string[] {
  if (outcome === 'running') return [];
  return [failure === undefined ? now : failure.replace(NEXT_STEP, '\n\n**Next step:** '), ''];
}

function waitingLines(status: MigrationStatus): string[] {
  const { waiting } = status;
  const paused = status.paused && waiting?.for !== 'resume' ? ['**Paused**: resume before it goes on', ''] : [];
  if (waiting === null) return paused;
  return [
    ...paused,
    `**Waits since ${waiting.since}**: ${waiting.why}`,
    ...approvalLines(waiting),
    ...(waiting.answer === undefined
      ? []
      : ['', 'Answer with:', '', '```', ...shortAnswer(status), waiting.answer, '```']),
    '',
  ];
}

/** The same by the project's own command line, where that finds the run by its name: it is shorter, and easier to write by hand. */
function shortAnswer({ name, workflowId, namespace = 'default', waiting }: MigrationStatus): string[] {
  const { gate, request } = waiting ?? {};
  if (gate === undefined || request === undefined || workflowId !== workflowIdOf(name)) return [];
  const where = namespace === 'default' ? '' : ` --namespace '${namespace}'`;
  return [`verdigris approve '${name}' ${gate} --request ${request}${where} --by 'YOUR NAME' --reason 'WHY'`, '# or'];
}

/** Who has approved, who may, and what is known: whoever approves should not have to look for it. */
function approvalLines({ request, quorum = 1, approvals = [], mayApprove, evidence = [] }: Waiting): string[] {
  if (request === undefined) return [];
  return [
    '',
    `Question ${request}${quorum === 1 ? '' : `, ${approvals.length} of ${quorum} people have approved`}${mayApprove === undefined ? '' : `; may approve: ${mayApprove.join(', ')}`}`,
    ...approvals.map(({ by, at, reason, until }) => `- ✓ ${by} at ${at} (counts until ${until}): ${reason}`),
    ...evidence.map((line) => `- ${line}`),
  ];
}

function heldLines({ held }: MigrationStatus): string[] {
  if (held === undefined || held === null) return [];
  return [`**Held since ${held.since}**: ${held.why}`, '', 'Answer with:', '', '```', held.answer, '```', ''];
}

function readsOnGreen(status: MigrationStatus): string {
  const not = notConfirmed(status);
  return `${status.greenReadPercent} % of the users${not === null ? '' : `; that they are back is ${not}`}`;
}

function lagLine(status: MigrationStatus): string[] {
  const { lagAt = null } = status;
  const lagSeconds = lagNow(status);
  if (lagSeconds === null) return [];
  return [`- **Lag** ${lagSeconds.toFixed(3)} s${lagAt === null ? '' : ` at ${lagAt}`}`];
}

function verificationLine({ verification }: MigrationStatus): string[] {
  if (verification === null) return [];
  const { tables, rowsVerified, differingRows, again } = verification;
  const since = again === undefined ? '' : ` (and ${again.rowsVerified} again at ${again.at})`;
  return [`- **Verified** ${rowsVerified} rows of ${tables} tables${since}, ${differingRows} differ`];
}

function promotionLine({ promotion }: MigrationStatus): string[] {
  if (promotion === null) return [];
  const { from, to, attempts } = promotion;
  return [`- **Promoted** ${from} to ${to}, writes ${heldFor(promotion)}, try ${attempts}`];
}

function phaseLine(status: MigrationStatus, phase: Phase): string {
  const times = status.phases.find((p) => p.phase === phase);
  if (times === undefined) return `- – ${phase}`;
  if (times.finishedAt === null) return `- ▶ **${phase}** since ${times.startedAt}`;
  const seconds = (Date.parse(times.finishedAt) - Date.parse(times.startedAt)) / 1000;
  return `- ${endedIn(status) === phase ? '✗' : '✓'} ${phase} (${seconds.toFixed(1)} s)`;
}

/** The phase in which the run has ended without going through it; null when it goes on, or is completed. */
function endedIn({ outcome, phases }: MigrationStatus): Phase | null {
  if (outcome === 'running' || outcome === 'completed') return null;
  return phases.at(-1)?.phase ?? null;
}

function rollbackLines({ rollingBack }: MigrationStatus): string[] {
  if (rollingBack === null) return [];
  return [
    '',
    '### Rollback',
    `Because: ${rollingBack.reason}`,
    ...(rollingBack.lost === undefined ? [] : [`Lost: ${rollingBack.lost}`]),
    ...rollingBack.undone.map((name) => `- ✓ ${name}`),
    ...rollingBack.notUndone.map((name) => `- ✗ ${name}`),
  ];
}

/** A heading with a list; nothing where there is nothing to list. */
export function section(title: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : ['', `### ${title}`, ...lines.map((line) => `- ${line}`)];
}
