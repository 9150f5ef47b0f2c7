import { otherSide, type Side } from '../../src/side.js';
import type { Point, When } from './statement-proxy.js';

/** A boundary between two steps of a move of the writes, by the statement of the worker's that lies there. */
export interface StepPoint {
  readonly name: string;
  /** The session on its way to the side that gives writes away, or to the one that takes them. */
  readonly on: 'from' | 'to';
  readonly session: string;
  readonly text: RegExp;
  readonly when: When;
}

const point = (name: string, on: 'from' | 'to', session: string, text: RegExp, when: When = 'after'): StepPoint => ({
  name,
  on,
  session,
  text,
  when,
});

const ANNOUNCED = point('it is announced', 'from', 'prepare promotion', /SET opening =/);

/** Only where the old side is to follow the new one. */
const WAY_BACK = [
  point('the way back is published', 'to', 'way back', /^CREATE PUBLICATION/),
  point('the way back is subscribed to', 'from', 'way back', /^COMMENT ON SUBSCRIPTION/),
];

const UNTIL_SEQUENCES = [
  point('the first table is armed', 'from', 'prepare promotion', /ENABLE ALWAYS TRIGGER/),
  point('before the lock', 'from', 'promotion', /pg_advisory_xact_lock\(/, 'before'),
  point('writers are locked out', 'from', 'promotion', /^SET statement_timeout = #; BEGIN .*pg_advisory_xact_lock\(/),
  // Sessions have no limit of their own before the hold: what comes next is the marker of the hold.
  point('before the marker', 'from', 'promotion marker', /^SET statement_timeout = .*; SELECT$/),
  point('sequences are carried over', 'to', 'promotion', /SELECT setval\(to_regclass/),
];

/** Not that of the rehearsal, which comes before the hold. */
const SLOT = point(
  'the slot of the way back is there',
  'to',
  'promotion',
  /pg_create_logical_replication_slot\([^;]*\) WHERE /,
);

const FROM_DECISION = [
  point('the route is written', 'from', 'promotion', /verdigris\.decide/),
  point('before the COMMIT', 'from', 'promotion', /; COMMIT$/, 'before'),
  point('after the COMMIT', 'from', 'promotion', /; COMMIT$/),
  point('before the new side opens', 'to', 'promotion', /verdigris\.open_fence/, 'before'),
  point('the new side is open', 'to', 'promotion', /verdigris\.open_fence/),
  point('the old feed is disabled', 'to', 'finish promotion', /^ALTER SUBSCRIPTION .* DISABLE$/),
  point('the old feed is dropped', 'to', 'finish promotion', /^DROP SUBSCRIPTION/),
  point('the slot of the old feed is dropped', 'from', 'finish promotion', /pg_drop_replication_slot/),
];

const FEED_ON = point('the feed back is on', 'from', 'finish promotion', /^COMMIT$/);

const DISARMED = point('the first table is disarmed', 'to', 'finish promotion', /DISABLE TRIGGER/);

/** What the rollback does when writes are back: `to` is blue. */
const UNDO = [
  point('the feeds are looked at', 'to', 'undo replication', /pg_subscription/),
  point('a publication is dropped', 'to', 'undo replication', /^DROP PUBLICATION/),
  point('the fence is off', 'to', 'remove fence', /DROP TRIGGER/),
  point('before the state goes', 'to', 'release', /^DROP SCHEMA/, 'before'),
  point('the state is gone', 'to', 'release', /^DROP SCHEMA/),
];

/** What the retirement takes away, in its order: `from` is blue, whose part comes first. */
export const RETIREMENT_POINTS = [
  point('the subscription on blue is dropped', 'from', 'retire', /^DROP SUBSCRIPTION/),
  point("blue's end is written down", 'from', 'retire', /^UPDATE verdigris\.owner/),
  point('the slot on green is dropped', 'to', 'retire', /pg_drop_replication_slot/),
  point("half of green's fence is dropped", 'to', 'retire', /DROP TRIGGER .* ON \S*notes/, 'before'),
  point("green's end is written down", 'to', 'retire', /^UPDATE verdigris\.owner/),
];

/** What a rollback before the promotion undoes on its way, with the names of its compensations: `to` is green. */
export const UNDOING_POINTS = {
  'the schema changes': [
    point('an up/down trigger is dropped', 'to', 'undo migrations', /DROP TRIGGER/),
    point('new columns are dropped', 'to', 'undo migrations', /DROP COLUMN/),
    point('what is known of the backfill is forgotten', 'to', 'undo migrations', /^DELETE FROM verdigris\.progress/),
  ],
  'replication and the copy': [
    point('the subscription is dropped', 'to', 'undo replication', /^DROP SUBSCRIPTION/),
    point('the slot on blue is dropped', 'from', 'undo replication', /pg_drop_replication_slot/),
    point('half of the copy is dropped', 'to', 'undo replication', /^DROP TABLE .*notes.* CASCADE/),
    point('what is known of the copy is forgotten', 'to', 'undo replication', /^DELETE FROM verdigris\.progress/),
    point('the state of green is gone', 'to', 'release', /^DROP SCHEMA/),
  ],
} as const;

/** What ends the tries of a promotion, which a pause or a rollback has interrupted: `from` is blue. */
export const WITHDRAWAL_POINTS = [
  point('the tries are ended', 'from', 'withdraw promotion', /^INSERT INTO verdigris\.progress/),
  point('the announcement is taken back', 'from', 'withdraw promotion', /SET opening = NULL/),
  point('routers are told', 'from', 'withdraw promotion', /pg_notify/),
];

/** Where the run is to promote later. */
export const SLOT_DROPPED = point('the slot of the try is dropped', 'to', 'promotion', /pg_drop_replication_slot/);

/** Every boundary of a promotion and of the way back, in their order. */
export const STEP_POINTS = {
  promotion: [ANNOUNCED, ...WAY_BACK, ...UNTIL_SEQUENCES, SLOT, ...FROM_DECISION, FEED_ON, DISARMED],
  'way back': [ANNOUNCED, ...UNTIL_SEQUENCES, ...FROM_DECISION, DISARMED, ...UNDO],
} as const;

/** The side whose proxy sees the point, and what StatementProxy.stopWhere takes. */
export function trapAt({ on, session, text, when }: StepPoint, from: Side): [Side, (seen: Point) => boolean, When] {
  const isHere = (seen: Point): boolean => seen.session === `verdigris ${session}` && text.test(seen.text);
  return [on === 'from' ? from : otherSide(from), isHere, when];
}
