import { appendFileSync, readFileSync } from 'node:fs';
import type { Session } from '../../src/postgres/session.js';

/** Tables of the workload whose rows carry a reference of their writer's. */
const REFERENCED = ['entries', 'operations', 'notes', 'events'] as const;

export type ReferencedTable = (typeof REFERENCED)[number];

/** What a database must say of a row: an acknowledged write is there, a refused one is not, the rest may be either. */
export type Wanted = 'there' | 'gone' | 'either';

/**
 * What writers meant to do and what they were told, kept outside of the databases. `either` is written down before a
 * write is sent, `there` or `gone` when its answer has come; a write without an answer stays `either`.
 */
export class AuditJournal {
  readonly #wanted: Record<ReferencedTable, Map<string, Wanted>> = {
    entries: new Map(),
    operations: new Map(),
    notes: new Map(),
    events: new Map(),
  };
  /** Rows that earlier audits have found. */
  readonly #settled: Record<ReferencedTable, number> = { entries: 0, operations: 0, notes: 0, events: 0 };
  acknowledged = 0;

  /** @param file where the lines go too, so that they outlive the process that writes them. */
  constructor(private readonly file?: string) {}

  /** What processes that may have been killed have written down. */
  static read(...files: readonly string[]): AuditJournal {
    const journal = new AuditJournal();
    for (const file of files) {
      // A process that is killed may leave half a line: what it belongs to was not sent yet.
      for (const line of readFileSync(file, 'utf8').split('\n').slice(0, -1)) {
        const [table, wanted, reference = ''] = line.split(' ');
        if (isTable(table) && isWanted(wanted)) journal.note(table, reference, wanted);
      }
    }
    return journal;
  }

  note(table: ReferencedTable, reference: string, wanted: Wanted): void {
    if (this.file !== undefined) appendFileSync(this.file, `${table} ${wanted} ${reference}\n`);
    this.#wanted[table].set(reference, wanted);
    if (wanted === 'there') this.acknowledged++;
  }

  /**
   * Compares with a database in which nothing of this is under way, and forgets what is settled.
   *
   * @returns what is wrong, empty when every write is there as it should be, once, and nothing else is.
   */
  async audit(session: Session): Promise<string[]> {
    const wrong: string[] = [];
    for (const table of REFERENCED) {
      const wanted = this.#wanted[table];
      // Only whole runs have it.
      if (table === 'events' && !(await isThere(session, table))) continue;
      const { rows } = await session.query<{ reference: string; n: number }>(
        `SELECT reference::text, count(*)::int AS n FROM public.${table} WHERE reference = ANY ($1::uuid[]) GROUP BY 1`,
        [[...wanted.keys()]],
      );
      const found = new Map(rows.map((row) => [row.reference, row.n]));
      for (const [reference, what] of wanted) {
        const n = found.get(reference) ?? 0;
        if (n > 1) wrong.push(`${table} ${reference} is there ${n} times`);
        if (what === 'there' && n === 0) wrong.push(`${table} ${reference} was acknowledged and is lost`);
        if (what === 'gone' && n > 0) wrong.push(`${table} ${reference} was refused or deleted and is there`);
        if (n > 0) this.#settled[table] += 1;
        // A write of unknown outcome may still arrive as long as it has not.
        if (what !== 'either' || n > 0) wanted.delete(reference);
      }
      const all = await session.query<{ n: number }>(`SELECT count(*)::int AS n FROM public.${table}`);
      const n = all.rows[0]?.n ?? 0;
      if (n !== this.#settled[table])
        wrong.push(`${table} has ${n} rows, and ${this.#settled[table]} are accounted for`);
    }
    const { rows } = await session.query<Record<string, boolean>>(TOTALS);
    for (const [what, holds] of Object.entries(rows[0] ?? {})) if (!holds) wrong.push(`total: ${what}`);
    return wrong;
  }
}

async function isThere(session: Session, table: ReferencedTable): Promise<boolean> {
  const { rows } = await session.query<{ is: boolean }>('SELECT to_regclass($1) IS NOT NULL AS is', [
    `public.${table}`,
  ]);
  return rows[0]?.is === true;
}

function isTable(word: string | undefined): word is ReferencedTable {
  return REFERENCED.some((table) => table === word);
}

function isWanted(word: string | undefined): word is Wanted {
  return word === 'there' || word === 'gone' || word === 'either';
}

/** Sums that every transaction leaves true, whichever of them were committed. */
const TOTALS = `
  SELECT (SELECT sum(balance) FROM public.accounts) = 100000 AS "the balances are what they were in all",
         (SELECT sum(balance) FROM public.accounts WHERE id <= 50) = 50000 - (SELECT count(*) FROM public.entries)
           AS "each entry moved one from the first accounts to the others",
         (SELECT coalesce(sum(n), 0) FROM public.counters) = (SELECT count(*) FROM public.operations WHERE kind = 'counter')
           AS "counters were raised once for each operation",
         (SELECT coalesce(sum(n), 0) FROM public.upserts) = (SELECT count(*) FROM public.operations WHERE kind = 'upsert')
           AS "upserts were done once for each operation",
         NOT EXISTS (SELECT FROM public.entries e WHERE NOT EXISTS (SELECT FROM public.accounts a WHERE a.id = e.account))
           AS "every entry has its account",
         (SELECT last_value FROM public.entries_id_seq) >= (SELECT coalesce(max(id), 0) FROM public.entries)
           AND (SELECT last_value FROM public.operations_id_seq) >= (SELECT coalesce(max(id), 0) FROM public.operations)
           AS "sequences are ahead"`;
