import type { FilledViews } from '../../activities/copy-schema.js';
import type { FlagsOwed } from '../../activities/flags.js';
import type { ReadsOwed } from '../../activities/traffic.js';
import { doctorCall } from '../../src/doctor-call.js';
import { shortened } from '../../src/failure-text.js';
import type { ClientPool } from '../../src/pgbouncer/client-pools.js';
import type { Plan } from '../../src/plan/schema.js';
import { isProgress } from '../../src/progress.js';
import type { Side } from '../../src/side.js';
import type { Approval, Message } from '../messages.js';
import { approvalEvidence, tablesOfGreenEvidence, viewsEvidence } from './approval-evidence.js';
import { approvalPolicy, ApprovalQuestion } from './approval-question.js';
import type { Evidence } from './evidence.js';
import { lossInWords, withAccepted, type Loss } from './loss.js';
import { acceptsLoss, malformedAcceptance, malformedMessage } from './message-payload.js';
import { LONGEST, LONGEST_OF_IGNORED, LONGEST_WARNING } from './message-texts.js';
import { retirementEvidence } from './retirement-evidence.js';
import type { RunRef } from './run-ref.js';
import type {
  Alarm,
  Decision,
  Held,
  MessageName,
  MigrationStatus,
  Outcome,
  Phase,
  PhaseTimes,
  PromotionSummary,
  RollbackSummary,
  VerificationSummary,
  Waiting,
} from './status.js';
import { WayBack } from './way-back.js';

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export interface RunIdentity {
  readonly name: string;
  readonly workflowId: string;
  readonly runId: string;
  /** Temporal's namespace. Default: `default`. */
  readonly namespace?: string;
}

/** When a window opens. */
export interface Opening {
  /** ISO 8601. */
  readonly at: string;
  /** For people, by the clock of the plan's time zone. */
  readonly text: string;
}

/** How many entries of evidence and of messages are kept: the answers of queries stay small. */
const KEPT = 200;

/**
 * What a run knows about itself, and what messages do to it. Pure: no workflow API, no clock of its own, so the rules
 * are tested without a server. Every change ends in `changed`, which the workflow uses to publish it.
 */
export class MigrationRun {
  plan: Plan | null = null;
  readonly evidence: Evidence[] = [];
  /** The rollback that was asked for, by message. */
  rollbackRequest: Message | null = null;
  /** The early end of the standby window that was asked for. */
  retireRequest: Message | null = null;
  /** Whether the promotion has been started: from then on the databases are asked where writes are. */
  promotionStarted = false;
  /** How often the run was resumed. */
  resumes = 0;
  /** How often what had been approved was void, since a gate had failed. */
  voided = 0;
  /** Whether undoing the replication failed: what it needs to be tried again by hand must stay. */
  replicationLeft = false;
  /** The epoch of the route, as the run knows it: raised by each move of the writes. */
  epoch = 0;
  /** Whether green has been primary in this run. */
  wasPromoted = false;
  /** Whether writes have moved back to blue, as far as this execution of the run knows: then it knows what was lost, too. */
  hasMovedBack = false;
  /** Whether writes may have come back from green before the workflow was reset, with a loss or not; null where nobody has asked. */
  greenMayHaveMore: boolean | null = null;
  /** Whether somebody has said "acceptLoss", whatever was named then. */
  lossAccepted = false;
  /** What has been accepted, as it was named. */
  accepted: Loss = {};
  /** How often a loss was accepted while the way back was blocked: the tries to lose nothing end then. */
  confirmations = 0;
  /** What a rollback would lose: the status says it. */
  readonly wayBack = new WayBack((rollback) => this.#set({ rollback }));
  /** Whether the way back is blocked now, so that a loss may be accepted although the rollback has begun. */
  wayBackBlocked = false;
  /** Whether green has given the writes back to blue, which is not open yet: then nobody takes writes. */
  wayBackDecided = false;
  /** Whether somebody has given the way back up: writes stay where they are. */
  gaveWayBackUp = false;
  /** What a rollback has lost, once it has: green keeps it. */
  lost: string | null = null;
  /** What blue may have again after a rollback although green had removed it; null when nothing. */
  hasAgain: string | null = null;
  /** Why what follows the last move of the writes is not finished yet; null when it is. */
  finishOwed: string | null = null;
  /** Poolers that a promotion which was given up has left as they were, and why; null without any. */
  poolersLeft: string | null = null;
  /** Whose clients had no connection when writes had moved, as far as poolers say. */
  unservedPools: readonly ClientPool[] = [];
  /** Tables of the plan that green alone has, as the comparison before the promotion has found them. */
  tablesOfGreen: readonly string[] = [];
  /** The materialized views that the copy has filled on green; null without any, or where an earlier version has not said so. */
  filledViews: FilledViews | null = null;
  /** Who else reads blue by replication, in words; empty while nobody has looked, or when nobody does. */
  readersOfBlue: readonly string[] = [];
  /** What the retirement has left on a blue that was out of reach; null when nothing. */
  leftOnBlue: string | null = null;
  /** Set while replication is taken down, and since: no way back. */
  retiring = false;
  /** Told after each change; set by the workflow. */
  onChange: () => void = () => undefined;
  /** Told when writes have moved, in either direction; set by what leads traffic outside the databases. */
  onMoved: () => void = () => undefined;
  /** Told what flagd's file does not say yet, after reads or writes have moved; set by the workflow. */
  onFlagsOwed: (ref: RunRef, owed: FlagsOwed | null | undefined) => void = () => undefined;

  /** Told who does not follow yet, after reads have been taken back; set by the workflow. */
  onReadsBack: (ref: RunRef, owed: ReadsOwed | null | undefined) => void = () => undefined;

  readonly #state: Mutable<MigrationStatus>;
  /** The question that is asked now, or was asked last. */
  #question: ApprovalQuestion | null = null;
  /** When the window opens that what is asked for waits for, as far as that is known. */
  #opens: Opening | null = null;
  /** The gates whose last question has been answered, and until when each answer counts. */
  readonly #approved = new Map<string, string>();
  readonly #asked = new Map<string, number>();
  /** What the way back, which is blocked, asks to have accepted. */
  #askedLoss: Loss = {};

  constructor(
    identity: RunIdentity,
    private readonly now: () => string,
  ) {
    this.#state = {
      ...identity,
      outcome: 'running',
      phase: 'preflight',
      phases: [],
      now: 'starting',
      progress: [],
      waiting: null,
      paused: false,
      writesOn: 'blue',
      greenReadPercent: 0,
      lagSeconds: null,
      lagAt: null,
      rollback: { safe: true, why: 'nothing has been touched yet' },
      rollbackAt: now(),
      rollingBack: null,
      verification: null,
      promotion: null,
      decisions: [],
      warnings: [],
    };
  }

  get status(): MigrationStatus {
    return { ...this.#state, waiting: this.#waiting() };
  }

  /** With an approval: who has approved so far, and what is known, with the time of each measurement. */
  #waiting(): Waiting | null {
    const { waiting } = this.#state;
    const question = this.#question;
    if (waiting?.for !== 'approval' || question === null) return waiting;
    return {
      ...waiting,
      quorum: question.policy.quorum,
      approvals: question.valid(this.now()),
      ...(question.policy.by === null ? {} : { mayApprove: question.policy.by }),
      evidence: [
        ...approvalEvidence(this.#state, this.evidence),
        ...(question.gate === 'retire'
          ? [...retirementEvidence(this.plan), ...this.readersOfBlue]
          : viewsEvidence(this.filledViews)),
        ...(question.gate === 'promote' ? tablesOfGreenEvidence(this.tablesOfGreen) : []),
        ...this.#opening(question),
      ],
    };
  }

  /** What an approval of now is worth when the window opens, for people; nothing where that is not waited for. */
  #opening({ policy }: ApprovalQuestion): string[] {
    const now = this.now();
    if (this.#opens === null || Date.parse(this.#opens.at) <= Date.parse(now)) return [];
    const until = new Date(Date.parse(now) + policy.validForMs).toISOString();
    return [`window: opens ${this.#opens.text}`, ...this.#endsBefore(until).map((why) => `NOT in time: ${why}`)];
  }

  /** Why an approval has ended when its window opens, for people; nothing where it has not, as far as is known. */
  #endsBefore(until: string): string[] {
    const opens = this.#opens;
    const now = Date.parse(this.now());
    if (opens === null || Date.parse(opens.at) <= now || Date.parse(until) >= Date.parse(opens.at)) return [];
    return [`the approval ends at ${until}, before the window opens (${opens.text}); it is asked for again then`];
  }

  get paused(): boolean {
    return this.#state.paused;
  }

  // -- the story ----------------------------------------------------------------------------------------------------

  enter(phase: Phase): void {
    this.#endPhase();
    const times: PhaseTimes = { phase, startedAt: this.now(), finishedAt: null };
    this.#set({ phase, phases: [...this.#state.phases, times], now: phase });
  }

  doing(now: string): void {
    this.#set({ now, progress: [] });
  }

  /** What the activities say about how far they are. It comes by signal, so anybody might have sent it. */
  progress(progress: unknown): void {
    if (!Array.isArray(progress) || this.#state.outcome !== 'running') return;
    this.#set({ progress: progress.filter(isProgress).slice(0, KEPT) });
  }

  waitFor(waiting: Omit<Waiting, 'since'> | null): void {
    // Nobody works then: the rates and the time that was left would be shown for hours.
    const isOver = waiting?.for === 'resume' ? { progress: [] } : {};
    this.#set({ waiting: waiting && { ...waiting, since: this.now() }, ...isOver });
  }

  saw(facts: Partial<Pick<MigrationStatus, 'lagSeconds' | 'writesOn' | 'greenReadPercent' | 'rollback'>>): void {
    this.#set(facts);
  }

  /** The lag that the gates of a stage have seen, and when: what says so may reach the run later. */
  sawLag(lagSeconds: number | null, at: string | undefined): void {
    this.#set({ lagSeconds, ...(lagSeconds === null || at === undefined ? {} : { lagAt: at }) });
  }

  /** Which live instances have not confirmed that reads are back on blue. */
  sawUnconfirmed(unconfirmed: readonly string[]): void {
    if (unconfirmed.length > 0 || this.#state.unconfirmed !== undefined) this.#set({ unconfirmed });
  }

  /** What the way back that is blocked now asks to have accepted; nothing where no loss is in question. */
  asksToLose(loss: Loss): void {
    this.#askedLoss = loss;
  }

  /** What a loss that is accepted now was named as: by the status, and by the way back that asks for it. */
  #namedLoss(): Loss {
    const byStatus = this.#state.rollback.loses === undefined ? {} : this.wayBack.loses;
    return this.wayBackBlocked ? withAccepted(byStatus, this.#askedLoss) : byStatus;
  }

  verified({ scope, ...found }: VerificationSummary & { readonly scope: 'all' | 'changed' }): void {
    const { rowsVerified, differingRows, at } = found;
    const earlier = this.#state.verification;
    const again = { ...(earlier ?? found), differingRows, again: { rowsVerified, at } };
    this.#set({ verification: scope === 'changed' ? again : found });
  }

  /** Some tables were compared again: how many rows were compared in all stays as it was told. */
  verifiedInPart(differingRows: number): void {
    const { verification } = this.#state;
    if (verification !== null) this.#set({ verification: { ...verification, differingRows } });
  }

  promoted(promotion: PromotionSummary): void {
    this.#set({ promotion, writesOn: promotion.to, greenReadPercent: promotion.to === 'green' ? 100 : 0 });
  }

  /** What a run that is paused no more waits for: it may have been held meanwhile. */
  #stillHeld(): Partial<Pick<MigrationStatus, 'waiting'>> {
    const { waiting, held = null } = this.#state;
    if (waiting?.for !== 'resume' || held === null) return {};
    return { waiting: { ...waiting, why: held.why } };
  }

  /** Held by something beside the work; null when that is over. */
  hold(held: Omit<Held, 'since'> | null): void {
    this.#set({ held: held && { ...held, since: this.now() } });
  }

  /** A run that is rolled back is paused no more: nothing of the rollback waits for a `resume`, which is refused. */
  rollingBack(summary: RollbackSummary): void {
    this.#set({ rollingBack: summary, paused: false });
  }

  warn(warnings: readonly string[]): void {
    const short = warnings.map((warning) => shortened(warning, LONGEST_WARNING));
    const added = short.filter((warning) => !this.#state.warnings.includes(warning));
    if (added.length > 0) this.#set({ warnings: [...this.#state.warnings, ...added].slice(-KEPT) });
  }

  /** Has people look at something: told once for each state that it comes into. The warnings keep it. */
  alarm(about: Alarm['about'], state: string, why: string, next: string): void {
    this.warn([why]);
    const alarms = this.#state.alarms ?? [];
    const before = alarms.find((one) => one.about === about);
    const since = before?.state === state ? before.since : this.now();
    this.#set({ alarms: [...alarms.filter((one) => one !== before), { about, state, why, next, since }] });
  }

  /** That is over. */
  allClear(about: Alarm['about']): void {
    const alarms = this.#state.alarms ?? [];
    const left = alarms.filter((one) => one.about !== about);
    if (left.length < alarms.length) this.#set({ alarms: left });
  }

  keep(evidence: readonly Evidence[]): void {
    this.evidence.push(...evidence);
    this.evidence.splice(0, Math.max(0, this.evidence.length - KEPT));
    this.onChange();
  }

  /** @param failure what people have to read and do, where `now` does not say it */
  end(outcome: Outcome, now: string, failure?: string): void {
    this.#endPhase();
    this.#set({ outcome, now, progress: [], waiting: null, alarms: [], ...(failure === undefined ? {} : { failure }) });
  }

  writesOn(side: Side): void {
    this.#set({ writesOn: side });
  }

  #endPhase(): void {
    const phases = this.#state.phases.map((p) => (p.finishedAt === null ? { ...p, finishedAt: this.now() } : p));
    this.#set({ phases });
  }

  #set(change: Partial<Mutable<MigrationStatus>>): void {
    const { lagSeconds, rollback } = change;
    const times = {
      ...(lagSeconds === undefined ? {} : { lagAt: lagSeconds === null ? null : this.now() }),
      ...(rollback === undefined ? {} : { rollbackAt: this.now() }),
    };
    Object.assign(this.#state, times, change);
    this.onChange();
  }

  // -- approvals ----------------------------------------------------------------------------------------------------

  /**
   * The id that the next question for a gate has.
   *
   * @param mark what the questions of other runs of this name have not. Default: none, as in runs of earlier versions
   */
  nextRequest(gate: string, mark?: string): string {
    const nth = `${gate}-${(this.#asked.get(gate) ?? 0) + 1}`;
    return mark === undefined ? nth : `${nth}-${mark}`;
  }

  /**
   * Asks for an approval. One that was given for an earlier question does not count.
   *
   * @param opens when the window of what is approved opens; null where that is not waited for
   */
  askApproval(
    gate: string,
    why: string,
    answer: string,
    opens: Opening | null = null,
    request = this.nextRequest(gate),
  ): void {
    const earlier = this.#asked.get(gate) ?? 0;
    this.#asked.set(gate, earlier + 1);
    this.#approved.delete(gate);
    this.#opens = opens;
    this.#question = new ApprovalQuestion(gate, request, approvalPolicy(this.plan), earlier > 0);
    this.waitFor({ for: 'approval', gate, request, why, answer });
  }

  /** The window of what is asked for has changed: when it opens next; null while it is open. */
  sawOpening(opens: Opening | null): void {
    this.#opens = opens;
    this.onChange();
  }

  /** Approvals that some people have given, while more are waited for: how often, and when the first ends that counts now. */
  get partlyApproved(): { readonly times: number; readonly until: string | undefined } {
    const ends = this.#question?.valid(this.now()).map(({ until }) => until) ?? [];
    return { times: this.#question?.given ?? 0, until: ends.sort()[0] };
  }

  /** One of them counts no more: whoever follows the run sees how many do. */
  approvalsLapsed(): void {
    this.onChange();
  }

  isApproved(gate: string): boolean {
    return this.#approved.has(gate);
  }

  /** Until when the approval that was given counts; undefined where none was. */
  approvedUntil(gate: string): string | undefined {
    return this.#approved.get(gate);
  }

  /** Since when an approval that was given counts no more, as what it was for has not begun so long. */
  approvalExpired(gate: string): string | undefined {
    const until = this.approvedUntil(gate);
    return until !== undefined && Date.parse(until) < Date.parse(this.now()) ? until : undefined;
  }

  /** A gate has failed. What people have approved so far counts no more, nor an answer to what is asked now. */
  voidApprovals(): void {
    this.voided++;
    this.#approved.clear();
    if (this.#state.waiting?.for === 'approval') this.waitFor(null);
  }

  /** Nobody has answered for long: whoever follows the run is told again. */
  remindOfApproval(): void {
    const { waiting } = this.#state;
    if (waiting?.for !== 'approval') return;
    this.#set({ waiting: { ...waiting, reminders: (waiting.reminders ?? 0) + 1 } });
    this.warn([`${waiting.why}: nobody has answered the question ${waiting.request ?? ''} since ${waiting.since}`]);
  }

  // -- messages -----------------------------------------------------------------------------------------------------

  /** Why a message can't be followed now; undefined when it can. Used by validators, so it changes nothing. */
  refusal(message: MessageName, payload: unknown): string | undefined {
    const malformed = malformedMessage(payload, message === 'approve' ? ['gate', 'by', 'reason'] : ['by', 'reason']);
    if (malformed !== undefined) return malformed;
    if (this.#state.outcome !== 'running') return `the run has ended (${this.#state.outcome})`;
    if (this.rollbackRequest !== null || this.#state.rollingBack !== null)
      return this.#refusalInRollback(message, payload);
    switch (message) {
      case 'approve': {
        const approval = payload as Approval;
        if (approval.request !== undefined && typeof approval.request !== 'string') return '"request" is a text';
        if (this.#state.waiting?.for !== 'approval' || this.#question === null)
          return `the run waits for no approval now (${this.#state.now})`;
        return this.#question.refusal(approval, this.now());
      }
      case 'pause':
        if (this.retiring) return 'the run is being retired';
        return this.#state.paused ? 'the run is paused already' : undefined;
      case 'resume':
        return this.#state.paused || this.#state.waiting?.for === 'resume' || (this.#state.held ?? null) !== null
          ? undefined
          : 'the run is not paused';
      case 'rollback':
        if (this.retiring)
          return 'the retirement has begun: replication is being taken down, and there is no way back any more';
        return this.#state.rollback.loses === undefined || this.#isForTheWayBackToSay || acceptsLoss(payload)
          ? malformedAcceptance(payload)
          : `a rollback would lose ${this.#state.rollback.loses}. ${HOW_TO_ACCEPT}`;
      case 'retire':
        return this.#refusalToRetire();
    }
  }

  /** Whether all that it may lose are partitions that may have been emptied: it compares them first, and asks where it must. */
  get #isForTheWayBackToSay(): boolean {
    return Object.keys(this.wayBack.loses).join() === 'emptied';
  }

  /** A window ends once. What comes before the retirement then is not for this message to answer. */
  #refusalToRetire(): string | undefined {
    const { phase, waiting } = this.#state;
    if (phase !== 'standby' || this.retiring) return 'the run is not in its standby window';
    if (waiting?.for === 'resume') return `the standby window has ended, and the run waits: ${waiting.why}`;
    if (waiting?.for !== 'approval') return undefined;
    return `the standby window has ended, and the run waits for the approval "${waiting.gate ?? ''}": send approve`;
  }

  /** What is still heard while the run is rolled back: an answer to a way back that is blocked. */
  #refusalInRollback(message: MessageName, payload: unknown): string | undefined {
    if (!this.wayBackBlocked) return 'the run is being rolled back';
    if (this.wayBackDecided && (message === 'retire' || message === 'rollback')) return this.onlyForward();
    // It is followed once green has said that it has the writes.
    if (message === 'retire') return undefined;
    if (message !== 'rollback') return 'the run is being rolled back';
    return acceptsLoss(payload) ? undefined : `the run is being rolled back, and waits. ${HOW_TO_ACCEPT}`;
  }

  /** Why nothing can be given up, nor lost, any more: blue alone may be opened. */
  onlyForward(): string {
    return `green has given the writes to blue, which is not open yet: nobody takes writes until it is. A worker that reaches blue opens it; so does: ${this.doctor('--open --yes')}`;
  }

  /** The command that asks the databases, or acts on them, without the run. */
  doctor(flags: string): string {
    const { blue, green } = this.plan ?? {};
    return doctorCall({ blue: blue?.connection ?? 'BLUE', green: green?.connection ?? 'GREEN' }, flags);
  }

  /** Follows a message that `refusal` has let through. @returns one line about what happens now. */
  follow(message: MessageName, payload: Message): string {
    // An earlier version has let through texts of any length.
    const kept = { by: shortened(payload.by, LONGEST.by), reason: shortened(payload.reason, LONGEST.reason) };
    const asked = message === 'approve' ? this.#question : null;
    const acceptLoss = message === 'rollback' && acceptsLoss(payload);
    const named = acceptLoss ? this.#namedLoss() : {};
    const accepted = lossInWords(named);
    this.#decide(message, kept, {
      ...(asked === null ? {} : { gate: asked.gate, request: asked.request }),
      ...(accepted === null ? {} : { acceptLoss: true, accepted }),
    });
    switch (message) {
      case 'approve':
        return this.#approve(payload as Approval);
      case 'pause':
        this.#set({ paused: true });
        return 'pausing: the current work stops where it can go on later';
      case 'resume':
        this.resumes++;
        this.#set({ paused: false, ...this.#stillHeld() });
        return 'resumed';
      case 'rollback':
        if (acceptLoss) this.lossAccepted = true;
        this.accepted = withAccepted(this.accepted, named);
        if (this.wayBackBlocked) {
          this.confirmations++;
          this.onChange();
        } else {
          this.rollbackRequest = kept;
          this.#set({ now: `rolling back: ${kept.reason}` });
        }
        if (!acceptLoss) return 'rolling back';
        return accepted === null ? NOTHING_ACCEPTED : `rolling back, with the loss of ${accepted}`;
      case 'retire':
        this.retireRequest = kept;
        if (this.wayBackBlocked) return GIVES_UP;
        return this.plan?.traffic.approval.before.includes('retire') === true
          ? 'the standby window ends now; the approval "retire" is asked for next'
          : 'the standby window ends now';
    }
  }

  #approve(approval: Approval): string {
    const question = this.#question;
    if (question === null) return 'nothing is asked';
    const { gate, policy } = question;
    const enough = question.give(approval, this.now());
    const given = question.valid(this.now());
    const names = given.map(({ by }) => by).join(', ');
    if (!enough) {
      this.onChange();
      return `noted: ${given.length} of ${policy.quorum} have approved ${gate} (${names})`;
    }
    // The oldest of them is the first that stops counting.
    const until = given.map((one) => one.until).reduce((a, b) => (a < b ? a : b));
    this.#approved.set(gate, until);
    this.waitFor(null);
    const early = this.#endsBefore(until);
    this.warn(early.map((why) => `${gate}: ${why}`));
    return [policy.quorum === 1 ? `approved: ${gate}` : `approved: ${gate}, by ${names}`, ...early].join('; ');
  }

  /** Writes down a message that could not be followed: signals can't be refused. */
  ignore(message: string, payload: unknown, why: string): void {
    const { by, reason, gate, request } = (
      typeof payload === 'object' && payload !== null ? payload : {}
    ) as Partial<Approval>;
    const most = LONGEST_OF_IGNORED;
    this.#decide(
      shortened(message, most.message),
      {
        by: typeof by === 'string' ? shortened(by, most.by) : 'unknown',
        reason: typeof reason === 'string' ? shortened(reason, most.reason) : '',
      },
      {
        ignored: shortened(why, most.why),
        ...(typeof gate === 'string' ? { gate: shortened(gate, most.gate) } : {}),
        ...(typeof request === 'string' ? { request: shortened(request, most.request) } : {}),
      },
    );
  }

  #decide(
    message: string,
    { by, reason }: Message,
    more: Pick<Decision, 'gate' | 'request' | 'ignored' | 'acceptLoss' | 'accepted'>,
  ): void {
    const decision: Decision = { message, by, reason, at: this.now(), ...more };
    this.#set({ decisions: [...this.#state.decisions, decision].slice(-KEPT) });
  }
}

const HOW_TO_ACCEPT =
  'Send the rollback with "acceptLoss": true to go back all the same (what only green has, it keeps, fenced), or stay on green';

const NOTHING_ACCEPTED =
  'rolling back; nothing is known now that would be lost, so no loss is accepted: one that shows up is asked about first';

const GIVES_UP =
  'the rollback is given up, and writes stay on green, unless green has given them away already: it is asked first';
