/** Shorter waits are saved up: a timer takes a millisecond at least. */
const SHORTEST_WAIT_MS = 2;

/** Lets so many bytes pass a second, evenly. What was not used in the last moments may be used now, but no more. */
export class RateLimit {
  private readyAt = Number.NEGATIVE_INFINITY;

  constructor(
    public bytesPerSecond: number,
    private readonly burstMs = 10,
  ) {}

  /** Takes a buffer that has passed. @returns how long to wait before the next one, ms. */
  after(bytes: number, now = performance.now()): number {
    if (!Number.isFinite(this.bytesPerSecond)) {
      this.readyAt = now;
      return 0;
    }
    this.readyAt = Math.max(this.readyAt, now - this.burstMs) + (bytes / this.bytesPerSecond) * 1_000;
    const wait = this.readyAt - now;
    return wait < SHORTEST_WAIT_MS ? 0 : wait;
  }
}
