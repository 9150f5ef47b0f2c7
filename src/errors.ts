import { NEXT_STEP, withoutNextStep } from './failure-text.js';

/**
 * Every error that Verdigris raises on purpose, by type. The catalogue with causes and remedies is docs/errors.md;
 * a test keeps the two equal. The type is the `type` of the ApplicationFailure that the Web UI shows.
 */
export const ERROR_TYPES = [
  'PlanInvalid',
  'PlanRefused',
  'ConnectionUnknown',
  'ConnectionFailed',
  'PreflightFailed',
  'DatabaseOwned',
  'BlueGivenAway',
  'NameTaken',
  'StateNotOurs',
  'SchemaCopyFailed',
  'IdentityMissing',
  'ReplicationBroken',
  'ReplicationStalled',
  'RetainedWalExceeded',
  'MigrationStepFailed',
  'LockNotHad',
  'BackfillFailed',
  'VerificationFailed',
  'PartitionEmptied',
  'ServerReplaced',
  'GateFailed',
  'FlagsNotWritten',
  'WeightsNotSet',
  'WebhookRefused',
  'WebhookNotDelivered',
  'PromotionBlocked',
  'NotOpened',
  'PoolNotReleased',
  'FenceTampered',
  'StaleEpoch',
  'RollbackUnsafe',
  'WritesUncertain',
  'WritesOnGreen',
  'WritesOnBlue',
  'WorkerBusy',
  'NothingNew',
  'MigrationRolledBack',
  'SqlError',
  'UnexpectedError',
] as const;

export type ErrorType = (typeof ERROR_TYPES)[number];

export interface ErrorOptions {
  readonly type: ErrorType;
  /** What happened, to which object. Never a password or a connection string. */
  readonly message: string;
  /** What the reader should do now. */
  readonly nextStep: string;
  /** Whether trying the same again can succeed without anybody changing anything. Default: false. */
  readonly retryable?: boolean;
  /** Facts for machines, kept in the history: small, without row values or secrets. */
  readonly details?: unknown;
  readonly cause?: unknown;
}

/** An error whose reader is told what happened and what to do next. */
export class VerdigrisError extends Error {
  override readonly name = 'VerdigrisError';
  readonly type: ErrorType;
  /** The message without the next step, also of what it was made of. */
  readonly what: string;
  readonly nextStep: string;
  readonly retryable: boolean;
  readonly details: unknown;

  constructor(options: ErrorOptions) {
    super(`${options.message}${NEXT_STEP}${options.nextStep}`, { cause: options.cause });
    this.what = withoutNextStep(options.message);
    this.type = options.type;
    this.nextStep = options.nextStep;
    this.retryable = options.retryable ?? false;
    this.details = options.details;
  }

  /** The same error, with facts for machines. */
  withDetails(details: unknown): VerdigrisError {
    return this.#with({ details });
  }

  /** The same error, where trying again can help after all. */
  tryingAgain(): VerdigrisError {
    return this.retryable ? this : this.#with({ retryable: true });
  }

  /** The same error, where it has been tried for long enough. */
  asLastWord(): VerdigrisError {
    return this.#with({ retryable: false });
  }

  #with(change: Pick<ErrorOptions, 'details' | 'retryable'>): VerdigrisError {
    const { type, nextStep, retryable, details, cause } = this;
    const message = this.message.slice(0, -`${NEXT_STEP}${nextStep}`.length);
    return new VerdigrisError({ type, message, nextStep, retryable, details, cause, ...change });
  }
}
