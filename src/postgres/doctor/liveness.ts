/** Whether the run that owns the databases lives. The databases can't say it: a terminated run writes nothing down. */
export type Liveness =
  /** It ended, was terminated, or there never was one. */
  | { readonly state: 'over'; readonly why: string }
  | {
      readonly state: 'lives';
      readonly why: string;
      /** No worker is seen at work on a side that was reached, or a person says that none is: Temporal knows of runs, not of who goes on with them. */
      readonly unattended?: true;
      /** What ends it, where that is not a rollback. */
      readonly next?: string;
    }
  /** Nobody could be asked: it is treated as living. */
  | { readonly state: 'unknown'; readonly why: string };

/** Why nothing may be done that only a run which is over allows; undefined when it is over. */
export function refuseLiving(liveness: Liveness): { readonly why: string; readonly next: string } | undefined {
  switch (liveness.state) {
    case 'over':
      return undefined;
    case 'lives':
      return {
        why: `the run lives: ${liveness.why}`,
        next: liveness.next ?? 'roll it back (verdigris rollback NAME --by WHO --reason WHY), or terminate it first',
      };
    case 'unknown':
      return {
        why: `it can't be said whether the run is over, so it counts as living: ${liveness.why}`,
        next: 'say where Temporal is (--address, --namespace); or, if you know that the run is over and its workers are stopped: --run-is-over NAME',
      };
  }
}
