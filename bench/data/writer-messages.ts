/** What the writer saw in one window of time. Milliseconds count from the moment in which a transaction was due. */
export interface WriterWindow {
  readonly transactions: number;
  readonly failed: number;
  readonly perSecond: number;
  readonly p50: number | null;
  readonly p99: number | null;
  readonly maxMs: number;
}

/** What the benchmark tells the writer's process: a new window begins; the answer is what the one before it saw. */
export interface WriterRequest {
  readonly id: number;
}

export type WriterReply = { readonly ready: true } | { readonly id: number; readonly window: WriterWindow };
