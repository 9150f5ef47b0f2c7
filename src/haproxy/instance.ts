import { VerdigrisError } from '../errors.js';
import { firstLine } from '../failure-text.js';
import type { Side } from '../side.js';
import { pause } from '../timing.js';
import type { Haproxies, Haproxy } from './haproxy.js';
import { ask } from './runtime-api.js';
import { isTable, serversOf, statisticsOf, type ShownServer, type ShownStatistics } from './shown.js';
import { weightsOf } from './weights.js';

const SIDES: readonly Side[] = ['blue', 'green'];

/** How long connections to a server may take to be gone once they were told to. */
const CUT_WITHIN_MS = 1_000;

/** One HAProxy, and what this migration asks of it. Keeps nothing: each question is a connection of its own. */
export class Instance {
  constructor(
    readonly haproxy: Haproxy,
    private readonly setup: Haproxies,
  ) {}

  /** Every server of the backend. @throws VerdigrisError ConnectionFailed, WeightsNotSet */
  async servers(): Promise<ShownServer[]> {
    const text = await ask(this.haproxy, `show servers state ${this.setup.backend}`);
    const servers = serversOf(text);
    if (servers.length === 0 && isTable(text)) throw this.failed(`has no server in "${this.setup.backend}"`);
    if (servers.length === 0) throw this.failed(`has no backend "${this.setup.backend}": ${firstLine(text)}`);
    return servers;
  }

  /** What it counts of the backend: a row for each server, and one for the whole. */
  async statistics(): Promise<ShownStatistics[]> {
    return statisticsOf(await ask(this.haproxy, `show stat ${this.setup.backend} 6 -1`));
  }

  /** How long its process has been running, s; undefined where it does not say. */
  async runsFor(): Promise<number | undefined> {
    const seconds = /^Uptime_sec: ([0-9]+)$/m.exec(await ask(this.haproxy, 'show info'))?.[1];
    return seconds === undefined ? undefined : Number(seconds);
  }

  /** How many connections a side has through it now. */
  async connectionsTo(side: Side): Promise<number> {
    const row = (await this.statistics()).find(({ name }) => name === this.setup.servers[side]);
    return row?.connections ?? 0;
  }

  /**
   * Shares new connections so that `percent` of them go to green, and looks whether it is so. Weights that are so already
   * stay untouched.
   *
   * @param mayStillSend asked right before it is told
   * @returns whether it had other weights; `overtaken` when it was not told any more
   * @throws VerdigrisError ConnectionFailed, WeightsNotSet; also when green shall have a share, and takes no connections
   */
  async share(percent: number, mayStillSend: () => boolean): Promise<'as it was' | 'set' | 'overtaken'> {
    const wanted = weightsOf(percent);
    const before = await this.#weights();
    const isSo = SIDES.every((side) => before[side] === wanted[side]);
    if (!isSo) {
      // The one that grows goes first: in between, there is never a moment in which no server takes connections.
      const order = [...SIDES].sort((a, b) => wanted[b] - before[b] - (wanted[a] - before[a]));
      const commands = order.map((side) => `set server ${this.#server(side)} weight ${wanted[side]}`);
      const answer = await ask(this.haproxy, commands.join(';'), mayStillSend);
      if (answer === undefined) return 'overtaken';
      if (answer.trim() !== '') throw this.failed(`refuses the weights: ${firstLine(answer.trim())}`);
      const after = await this.#weights();
      const wrong = SIDES.filter((side) => after[side] !== wanted[side]);
      if (wrong.length > 0) {
        const shown = wrong.map((side) => `${this.setup.servers[side]} ${after[side]} instead of ${wanted[side]}`);
        throw this.failed(`shows other weights than it was just given: ${shown.join(', ')}`);
      }
    }
    if (percent > 0) await this.#refuseUnusableGreen();
    return isSo ? 'as it was' : 'set';
  }

  /**
   * Ends every connection to a side, and looks whether they are gone: one that was being made in that moment too.
   *
   * @throws VerdigrisError ConnectionFailed, WeightsNotSet
   */
  async cut(side: Side): Promise<void> {
    const until = performance.now() + CUT_WITHIN_MS;
    for (;;) {
      const open = await this.connectionsTo(side);
      if (open === 0) return;
      if (performance.now() > until) throw this.failed(`still has ${open} connections to ${side}`);
      const answer = await ask(this.haproxy, `shutdown sessions server ${this.#server(side)}`);
      if (answer.trim() !== '') throw this.failed(`does not end connections to ${side}: ${firstLine(answer.trim())}`);
      await pause(10, 20);
    }
  }

  failed(why: string): VerdigrisError {
    return new VerdigrisError({
      type: 'WeightsNotSet',
      message: `HAProxy "${this.haproxy.connection}" ${why}`,
      nextStep: 'mend what it says; what is tried again goes on by itself: docs/haproxy.md',
      retryable: true,
    });
  }

  async #weights(): Promise<Readonly<Record<Side, number>>> {
    const servers = await this.servers();
    return { blue: this.#one(servers, 'blue').weight, green: this.#one(servers, 'green').weight };
  }

  /** Then HAProxy would give the share to blue, and the stage would be one in name only. */
  async #refuseUnusableGreen(): Promise<void> {
    const { name, isUp, isHeld } = this.#one(await this.servers(), 'green');
    if (isHeld)
      throw this.failed(`gives green nothing: somebody has put the server "${name}" into maintenance or drain`);
    if (!isUp) throw this.failed(`gives green nothing: by its health check the server "${name}" is down`);
  }

  #one(servers: readonly ShownServer[], side: Side): ShownServer {
    const server = servers.find(({ name }) => name === this.setup.servers[side]);
    if (server === undefined) throw this.failed(`has no server "${this.#server(side)}"`);
    return server;
  }

  #server(side: Side): string {
    return `${this.setup.backend}/${this.setup.servers[side]}`;
  }
}
