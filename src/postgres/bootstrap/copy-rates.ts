/** What has been copied of a table so far. */
export interface CopiedSoFar {
  readonly rows: number;
  readonly bytes: number;
  /** How much of the whole that is, 0..1; undefined while it is not known. */
  readonly share: number | undefined;
}

export interface CopyRates {
  readonly rowsPerSecond: number;
  readonly bytesPerSecond: number;
  readonly etaSeconds: number | null;
}

interface Start extends CopiedSoFar {
  readonly at: number;
}

/**
 * Rates and the time that is left, each table by its own time: from the last look at which it had no rows, or, where it
 * is met with some, from that look on.
 */
export class TableRates {
  private readonly starts = new Map<string, Start>();
  private lookedAt: number | undefined;

  /** @param now ms, of any clock that does not go back. */
  look(tables: ReadonlyMap<string, CopiedSoFar>, now: number): Map<string, CopyRates> {
    const rates = new Map<string, CopyRates>();
    for (const [table, copied] of tables) {
      const begun = copied.rows > 0 || copied.bytes > 0;
      if (begun && !this.starts.has(table)) {
        const isNew = this.lookedAt !== undefined;
        this.starts.set(
          table,
          isNew ? { rows: 0, bytes: 0, share: 0, at: this.lookedAt ?? now } : { ...copied, at: now },
        );
      }
      rates.set(table, between(this.starts.get(table), copied, now));
    }
    this.lookedAt = now;
    return rates;
  }
}

function between(start: Start | undefined, { rows, bytes, share }: CopiedSoFar, now: number): CopyRates {
  const seconds = start === undefined ? 0 : (now - start.at) / 1_000;
  if (start === undefined || seconds <= 0) return { rowsPerSecond: 0, bytesPerSecond: 0, etaSeconds: null };
  const done = share === undefined ? 0 : share - (start.share ?? 0);
  return {
    rowsPerSecond: Math.max(0, Math.round((rows - start.rows) / seconds)),
    bytesPerSecond: Math.max(0, Math.round((bytes - start.bytes) / seconds)),
    etaSeconds: share === undefined || done <= 0 ? null : Math.round((seconds * (1 - share)) / done),
  };
}
