import type { WritesAre } from '../postgres/pools.js';
import { promotionBlocked } from '../postgres/hold.js';
import { EntryFile } from './entry.js';
import { tooLate } from './instance-errors.js';
import { markName, markValue, parseMark, type Mark } from './mark.js';
import type { PgBouncer, PgBouncers } from './pgbouncer.js';
import type { Turn } from './turn.js';

/**
 * What one worker may do to one PgBouncer, by the mark that it finds there: whose a pause is, and what the file is to say.
 * Pure; what it looks at and does is in instance.ts.
 */
export class Marking {
  constructor(
    private readonly pooler: PgBouncer,
    private readonly setup: Pick<PgBouncers, 'migration' | 'databases' | 'aliases'>,
    private readonly turn: Turn,
  ) {}

  /**
   * The text of the file with this mark, and with the entries where it says.
   *
   * @throws VerdigrisError StaleEpoch when the file is of a later epoch, PromotionBlocked as refuseOthersTurn()
   * @throws RangeError where it has not the entries
   */
  marked(text: string, mark: Mark): string {
    const entries = new EntryFile(text);
    const name = markName(this.setup.migration);
    const known = parseMark(entries.parameter(name, 'dbname'));
    if (known !== undefined && known.epoch > mark.epoch) throw tooLate(this.pooler, known, mark);
    // One of an epoch that is over has no pause left to keep.
    if (known?.epoch === mark.epoch) this.refuseOthersTurn(known);
    for (const database of this.setup.databases) entries.point(database, this.setup.aliases[mark.side]);
    const signed = this.signed(mark);
    entries.set(name, markValue(this.leavesLateOne(known) ? { ...signed, overtaken: true } : signed));
    return entries.toString();
  }

  /** A mark as this worker writes it. */
  signed(mark: Mark): Mark {
    return mark.state === 'moving' ? { ...mark, token: this.turn.token } : mark;
  }

  /** Whether a worker that may only be frozen has announced a pause, and this one goes on in its place. */
  leavesLateOne(mark: Mark | undefined): boolean {
    return mark?.overtaken === true || (mark?.state === 'moving' && !this.turn.isOwn(mark));
  }

  /** @throws VerdigrisError StaleEpoch, PromotionBlocked when the mark is not the one that this worker has announced */
  refuseUnlessAnnounced(mark: Mark | undefined, { side, epoch }: WritesAre): void {
    if (isSameMark(mark, this.signed({ side, epoch, state: 'moving' }))) return;
    if (mark !== undefined && mark.epoch > epoch) throw tooLate(this.pooler, mark, { epoch });
    this.refuseOthersTurn(mark);
    throw promotionBlocked(`PgBouncer "${this.pooler.connection}" has been settled by another worker meanwhile`);
  }

  /** @throws VerdigrisError PromotionBlocked while another worker is at work, which has announced a pause since this one did */
  refuseOthersTurn(mark: Mark | undefined): void {
    if (!this.turn.isOthers(mark)) return;
    throw promotionBlocked(
      `PgBouncer "${this.pooler.connection}" is in the hands of another worker, which has announced a pause since`,
    );
  }
}

/** Whether two say the same; `overtaken` apart, which is of a mark from before. */
export function isSameMark(a: Mark | undefined, b: Mark): boolean {
  return a?.epoch === b.epoch && a.side === b.side && a.state === b.state && a.token === b.token;
}
