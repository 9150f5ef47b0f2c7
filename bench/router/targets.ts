/** What is measured, each beside the same statements over a pg.Pool to the side that answers. */
export const WORKLOADS = ['select 1', 'read', 'write', 'transaction', 'session on green', 'strict on green'] as const;

export type Workload = (typeof WORKLOADS)[number];

/** What the router made of the pool's figures: the medians of the pairs of rounds. */
export interface Overhead {
  readonly workload: Workload;
  /** Of the router's throughput to the pool's. */
  readonly throughput: number;
  /** More time a query than the pool takes. */
  readonly moreMicroseconds: number;
}

/** At most so much may be lost, of throughput and of time a query. */
const TARGET = { throughput: 0.97, microseconds: 50 };

/** A `strict` read on green asks blue first, which is a round trip that the pool does not have: it is shown, not judged. */
export function verdictOf({ workload, throughput, moreMicroseconds }: Overhead): 'met' | 'missed' | '-' {
  if (workload === 'strict on green') return '-';
  return throughput >= TARGET.throughput && moreMicroseconds <= TARGET.microseconds ? 'met' : 'missed';
}
