import { z } from 'zod';
import type { Route } from '../postgres/state.js';
import { TOTAL_WEIGHT, weightOf } from '../router/cohort.js';

/** What flagd shall answer, and where that comes from. */
export interface FlagState {
  /** The run that writes it: epochs and generations of two runs can't be compared. */
  readonly run: string;
  readonly route: Route;
}

/** Says in a file that it is ours to replace. */
const WRITTEN_BY = 'verdigris';

/**
 * The flag definition that flagd reads: the same users as the router's, by the same hash of flag key and user over the
 * same, constant total weight. A request without a targeting key goes where writes are, as in the router.
 */
export function flagdJson({ run, route }: FlagState): string {
  const { migration, epoch, generation, flag, writesOn, greenReadPercent } = route;
  const metadata = { writtenBy: WRITTEN_BY, migration, run, epoch, generation, writesOn, greenReadPercent };
  const definition = {
    state: 'ENABLED',
    variants: { green: true, blue: false },
    defaultVariant: writesOn,
    ...targeting(route),
    metadata,
  };
  const file = { $schema: 'https://flagd.dev/schema/v0/flags.json', metadata, flags: { [flag]: definition } };
  return `${JSON.stringify(file, null, 2)}\n`;
}

function targeting({ writesOn, greenReadPercent }: Route): object {
  const green = weightOf(greenReadPercent);
  // Nobody, or after the promotion everybody: the default variant says it, with a targeting key as without one.
  if (writesOn === 'green' || green === 0) return {};
  const buckets: [string, number][] = [
    ['green', green],
    ['blue', TOTAL_WEIGHT - green],
  ];
  return { targeting: { fractional: buckets.filter(([, weight]) => weight > 0) } };
}

const written = z.object({
  metadata: z.object({
    writtenBy: z.literal(WRITTEN_BY),
    migration: z.string(),
    run: z.string(),
    epoch: z.number(),
    generation: z.number(),
  }),
});

/** By which run, and for which route, a file was written; undefined for a text that is not ours. */
export type Written = z.output<typeof written>['metadata'];

/** Reads what we have written into a file about itself; undefined for somebody else's text. */
export function readWritten(text: string): Written | undefined {
  try {
    return written.safeParse(JSON.parse(text)).data?.metadata;
  } catch {
    return undefined;
  }
}
