/** Whether the run that owns the databases lives. The databases can't say it: a terminated run writes nothing down. */
export type Liveness =
  /** It ended, was terminated, or there never was one. */
  | { readonly state: 'over'; readonly why: string }
  | { readonly state: 'lives'; readonly why: string }
  /** Nobody could be asked: it is treated as living. */
  | { readonly state: 'unknown'; readonly why: string };
