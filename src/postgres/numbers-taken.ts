import { formatTableName } from '../plan/table-name.js';
import { readCarriedSequences } from './carried-sequences.js';
import type { TablePatterns } from './catalog-pattern.js';
import { qualified } from './identifier.js';
import { isSamePosition, readPositions, type SequencePosition, type SequenceShape } from './sequences.js';
import type { Session } from './session.js';
import { isConnectionLost } from './sqlstate.js';

/*
 * The fence refuses rows. A number that is taken by itself (`SELECT nextval(...)`) passes it: whoever goes on to take them
 * from the side that has given its writes away gets, once the gap is used up, those that the other side gives as well.
 */

/**
 * Time between two looks at the sequences, ms: there may be thousands. The first one is as late: who has not heard of the
 * promotion for some seconds is what the gap is for.
 */
const LOOK_EVERY_MS = 10_000;
/** How long after the last number that was taken there it is still told, ms: a process that takes one an hour comes again. */
const TOLD_FOR_MS = 15 * 60_000;
/** How many sequences are named. */
const NAMED = 5;

/**
 * Looks whether numbers are taken on blue while green has the writes. It begins with where the sequences are: a try of a
 * way back moves those of blue, and no watch goes on through one.
 */
export class NumbersTaken {
  #shapes: SequenceShape[] | undefined;
  #known = new Map<string, SequencePosition>();
  /** Whom it was asked of: after a crash each sequence goes on up to 32 values further, without anybody taking any. */
  #blue: Session | undefined;
  #moved = new Set<string>();
  #lookedAt = performance.now();
  #movedAt: number;

  /**
   * @param wasTold whether people have been told before that some were
   * @param patterns what the plan moves
   * @param everyMs time between two looks
   */
  constructor(
    wasTold: boolean,
    private readonly patterns: TablePatterns,
    private readonly everyMs = LOOK_EVERY_MS,
  ) {
    this.#movedAt = wasTold ? performance.now() : -Infinity;
  }

  /** Why people are to be told, in words; undefined when nobody takes any. */
  async look(blue: Session, green: Session): Promise<string | undefined> {
    const now = performance.now();
    if (now - this.#lookedAt >= this.everyMs) {
      this.#lookedAt = now;
      await this.#read(blue, green, now).catch(unlessLost);
    }
    if (now - this.#movedAt >= TOLD_FOR_MS) this.#moved.clear();
    return now - this.#movedAt < TOLD_FOR_MS ? this.#why() : undefined;
  }

  async #read(blue: Session, green: Session, now: number): Promise<void> {
    if (blue !== this.#blue) this.#known.clear();
    this.#blue = blue;
    this.#shapes ??= await readCarriedSequences(blue, green, this.patterns);
    for (const position of await readPositions(blue, this.#shapes)) {
      const name = qualified(position.name);
      const known = this.#known.get(name);
      this.#known.set(name, position);
      if (known === undefined || isSamePosition(position, known)) continue;
      this.#moved.add(formatTableName(position.name));
      this.#movedAt = now;
    }
  }

  #why(): string {
    const names = [...this.#moved].sort();
    const more = names.length > NAMED ? ` and ${names.length - NAMED} more` : '';
    const which = names.length === 0 ? '' : ` (${names.slice(0, NAMED).join(', ')}${more})`;
    return `somebody still takes numbers from sequences on blue${which}, which the fence does not refuse: once the gap is used up (promote.sequenceGap), green gives the same ones`;
  }
}

/** Somebody's DDL, or a right that was taken away: the feed is watched on, and the numbers are looked at again. */
function unlessLost(error: unknown): void {
  if (isConnectionLost(error)) throw error;
}
