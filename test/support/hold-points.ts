import type { Point, When } from './statement-proxy.js';

/** Moments of a promotion at which writes wait, by the statement that the worker's session `promotion` is at. */
export const HOLD_POINTS = ['writers are locked out', 'before the decision', 'the decision is not known'] as const;

export type HoldPoint = (typeof HOLD_POINTS)[number];

const STATEMENTS: Readonly<Record<HoldPoint, { text: RegExp; when: When }>> = {
  'writers are locked out': { text: /pg_advisory_xact_lock\(/, when: 'after' },
  'before the decision': { text: /verdigris\.decide/, when: 'before' },
  // Its COMMIT has been carried out, and the answer has not arrived.
  'the decision is not known': { text: /; COMMIT$/, when: 'after' },
};

/** Where rows of blue are about to be copied, in front of blue. */
export const COPYING: [(point: Point) => boolean, When] = [
  ({ session, text }) => session === 'verdigris copy rows' && text.startsWith('COPY '),
  'before',
];

/** As StatementProxy takes it, in front of the side that gives writes away. */
export function holdPoint(name: HoldPoint = 'writers are locked out'): [(point: Point) => boolean, When] {
  const { text, when } = STATEMENTS[name];
  const isHere = (point: Point): boolean => point.session === 'verdigris promotion' && text.test(point.text);
  return [isHere, when];
}
