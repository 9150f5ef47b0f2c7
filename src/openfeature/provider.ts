import {
  FlagNotFoundError,
  OpenFeatureEventEmitter,
  ServerProviderEvents,
  TypeMismatchError,
  type EvaluationContext,
  type Provider,
  type ResolutionDetails,
} from '@openfeature/server-sdk';
import type pg from 'pg';
import { instanceName } from '../router/instance-name.js';
import { SILENT, type RouterLogger } from '../router/logger.js';
import { evaluate } from './evaluate.js';
import { RouteWatch } from './route-watch.js';

export interface VerdigrisProviderOptions {
  /** Name of the plan: the `name` field of the migration that this application follows. */
  readonly migration: string;
  /** The current database, as pg.Client takes it. One connection is kept open. */
  readonly blue: pg.ClientConfig;
  /** The new database. It may be down or empty. */
  readonly green: pg.ClientConfig;
  /** Key of the flag: `traffic.flag` of the plan. Default `use-green-db`. */
  readonly flag?: string;
  /** Version of the application, shown beside this process in `verdigris.router`. */
  readonly version?: string;
  /** Name of this process; `verdigris.router` has it with a random part behind it. Default: host and process id. */
  readonly instance?: string;
  /** How often the route is looked at besides the notifications, in ms. Default 500. */
  readonly pollIntervalMs?: number;
  /** How often this process says which route it follows, in ms. Default 1,000. */
  readonly heartbeatIntervalMs?: number;
  /** Default: none. */
  readonly logger?: RouterLogger;
}

/**
 * An OpenFeature provider for Node.js servers with one boolean flag: whether a user reads from green. The answer comes
 * from the route in the databases, which is pushed; `targetingKey` is the user, the same as a router's.
 *
 * @example
 * await OpenFeature.setProviderAndWait(new VerdigrisProvider({ migration: 'orders-2026-11', blue, green }));
 * const useGreen = await OpenFeature.getClient().getBooleanValue('use-green-db', false, { targetingKey: userId });
 */
export class VerdigrisProvider implements Provider {
  readonly metadata = { name: 'verdigris' } as const;
  readonly runsOn = 'server';
  readonly events = new OpenFeatureEventEmitter();
  /** Name of this provider in `verdigris.router`: begins with the one that it was given. */
  readonly instance: string;
  readonly #flag: string;
  readonly #watch: RouteWatch;
  #isStarted = false;
  #isStale = false;

  constructor(options: VerdigrisProviderOptions) {
    const { migration, blue, green, flag = 'use-green-db' } = options;
    if (migration === '') throw new RangeError('the provider needs the name of the migration');
    const instance = instanceName(options.instance);
    this.instance = instance.unique;
    this.#flag = flag;
    this.#watch = new RouteWatch({
      ...{ migration, blue, green, instance, version: options.version },
      pollIntervalMs: options.pollIntervalMs ?? 500,
      heartbeatIntervalMs: options.heartbeatIntervalMs ?? 1_000,
      logger: options.logger ?? SILENT,
      onChange: ({ isNewRoute }) => this.#changed(isNewRoute),
    });
  }

  /** Looks at both sides. Never fails: until a side answers, everybody is on blue. */
  async initialize(): Promise<void> {
    await this.#watch.start();
    this.#isStarted = true;
    // Once the SDK has called this provider ready: it may have to take that back.
    setImmediate(() => this.#changed(false));
  }

  async onClose(): Promise<void> {
    await this.#watch.close();
  }

  /** @throws FlagNotFoundError for any other key than the migration's. */
  resolveBooleanEvaluation(
    flagKey: string,
    _defaultValue: boolean,
    { targetingKey }: EvaluationContext,
  ): Promise<ResolutionDetails<boolean>> {
    if (flagKey !== this.#flag) return Promise.reject(this.#unknown(flagKey));
    const { route } = this.#watch;
    const { variant, reason } = evaluate(route, targetingKey, this.#watch.isReliable);
    const { migration, epoch, generation, writesOn, greenReadPercent } = route;
    return Promise.resolve({
      value: variant === 'green',
      variant,
      reason,
      flagMetadata: { migration, epoch, generation, writesOn, greenReadPercent },
    });
  }

  resolveStringEvaluation(flagKey: string): Promise<ResolutionDetails<string>> {
    return Promise.reject(this.#notOfThisType(flagKey));
  }

  resolveNumberEvaluation(flagKey: string): Promise<ResolutionDetails<number>> {
    return Promise.reject(this.#notOfThisType(flagKey));
  }

  resolveObjectEvaluation<T>(flagKey: string): Promise<ResolutionDetails<T>> {
    return Promise.reject(this.#notOfThisType(flagKey));
  }

  #changed(isNewRoute: boolean): void {
    if (!this.#isStarted) return;
    const isStale = !this.#watch.isReliable;
    if (isStale !== this.#isStale) {
      this.#isStale = isStale;
      this.events.emit(isStale ? ServerProviderEvents.Stale : ServerProviderEvents.Ready, {
        message: isStale ? 'no connection to blue: everybody reads from blue' : 'the route is known again',
      });
    }
    if (isNewRoute) this.events.emit(ServerProviderEvents.ConfigurationChanged, { flagsChanged: [this.#flag] });
  }

  #notOfThisType(flagKey: string): Error {
    return flagKey === this.#flag ? new TypeMismatchError(`${flagKey} is a boolean`) : this.#unknown(flagKey);
  }

  #unknown(flagKey: string): Error {
    return new FlagNotFoundError(`${flagKey}: the only flag of this provider is ${this.#flag}`);
  }
}
