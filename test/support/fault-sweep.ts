import { otherSide } from '../../src/side.js';
import { isHalfTaken } from './fault-points.js';
import type { MovePoint } from './promotion-actor.js';
import { recordOutcome } from './outcome-table.js';
import { PromotionRig } from './promotion-rig.js';
import { samePoint, type When } from './statement-proxy.js';

/** Where a statement is repeated until something has happened, its first two times stand for all. */
const REPEATS = 2;

/** What changes nothing when it is carried out ... */
const LOOKS = /^(connect$|SELECT\b|SET\b)/;
/** ... unless it calls what does, or holds something from then on. */
const ACTS =
  /setval|pg_create_|pg_drop_|pg_notify|advisory|verdigris\.(decide|open_fence)|FOR (SHARE|UPDATE)|BEGIN|COMMIT/;

/**
 * Whether a statement changes a server or holds a lock there. Before and after one that only looks, a worker that dies
 * leaves the same behind as at the last one that acts; one that is frozen there looks again when it wakes.
 */
export function isActing({ text }: { readonly text: string }): boolean {
  return !LOOKS.test(text) || ACTS.test(text);
}

export interface FaultOutcome {
  readonly point: string;
  readonly when: When;
  /** `right`, `not reached` (a wait that was shorter this time), or what was wrong. */
  readonly outcome: string;
  readonly seconds: number;
}

/**
 * Those that are not as they should be. A point may be met in no later move where something took its time in the first one
 * only: what was said again, and the session that watches a lock that is not had at once.
 */
export function wrong(outcomes: readonly FaultOutcome[]): FaultOutcome[] {
  const mayStayAway = (point: string): boolean => / \(\d+\)$/.test(point) || / watch locks: /.test(point);
  return outcomes.filter(
    ({ outcome, point }) => outcome !== 'right' && !(outcome === 'not reached' && mayStayAway(point)),
  );
}

/**
 * Puts the fault at every point of the move and of the way back, before and after each statement; at every n-th by default.
 * A point that a move did not come by (a wait was shorter, a table was armed still) has a second chance in a later one.
 */
export async function sweep(
  fault: 'kill' | 'freeze',
  everyByDefault: number,
  tell: (line: string) => void,
): Promise<FaultOutcome[]> {
  let rig = await PromotionRig.create(`${fault} points`);
  const outcomes: FaultOutcome[] = [];
  try {
    let first = await thereAndBack(rig);
    for (let attempt = 1; first === undefined && attempt < RECORDINGS; attempt++) {
      await rig.close();
      rig = await PromotionRig.create(`${fault} points`);
      first = await thereAndBack(rig);
    }
    let later = await thereAndBack(rig);
    for (let attempt = 1; later === undefined && attempt < RECORDINGS; attempt++) later = await thereAndBack(rig);
    if (first === undefined || later === undefined) throw new Error(`no move of ${RECORDINGS} was not held up`);
    const seen = { before: 0, after: 0 };
    const cases = [
      // What is made once (publications, triggers) is made again only with new databases.
      ...first.filter((point) => !later.some((one) => isSame(one, point))).map((point) => ({ point, isFresh: true })),
      ...later.map((point) => ({ point, isFresh: false })),
    ]
      .filter(({ point }) => point.nth <= REPEATS)
      .flatMap((one) => (['before', 'after'] as const).map((when) => ({ ...one, when })))
      // A session begins in several messages to and fro; its end is the first statement's `before`.
      .filter(({ point, when }) => point.text !== 'connect' || when === 'before')
      .filter(({ point }) => process.env['VERDIGRIS_FAULT_LOOKS'] === '1' || isActing(point))
      .filter(({ when }) => isHalfTaken(when, seen[when]++, everyByDefault))
      .map((one) => ({ ...one, isSecondTime: false }));
    const fresh = cases.filter(({ isFresh }) => isFresh);
    // There and back in turn, so that no move is made for nothing.
    const left = {
      blue: cases.filter(({ point, isFresh }) => !isFresh && point.from === 'blue'),
      green: cases.filter(({ point, isFresh }) => !isFresh && point.from === 'green'),
    };
    while (fresh.length + left.blue.length + left.green.length > 0) {
      let next = fresh.shift();
      if (next !== undefined) {
        await rig.close();
        rig = await PromotionRig.create(`${fault} points`);
        if (next.point.from === 'green') await rig.moveOn();
      } else next = left[rig.primary].shift();
      if (next === undefined) {
        await rig.moveOn();
        continue;
      }
      const started = performance.now();
      let outcome: string;
      try {
        const isHit = await rig.fault(fault, next.point, next.when);
        await rig.audit();
        if (!isHit && !next.isSecondTime) {
          const again = { ...next, isSecondTime: true };
          if (next.isFresh) fresh.push(again);
          else left[next.point.from].push(again);
          continue;
        }
        outcome = isHit ? 'right' : 'not reached';
      } catch (error) {
        outcome = error instanceof Error ? error.message : String(error);
        // What is broken here must not colour the next point.
        await rig.close().catch(() => undefined);
        rig = await PromotionRig.create(`${fault} points`);
      }
      const result = {
        point: describePoint(next.point),
        when: next.when,
        outcome,
        seconds: (performance.now() - started) / 1_000,
      };
      outcomes.push(result);
      recordOutcome({ ...result, fault: `promotion step, worker ${fault}`, point: `${result.when} ${result.point}` });
      tell(line(outcomes.length, cases.length, result));
    }
    return outcomes;
  } finally {
    await rig.close();
  }
}

/** How often a move is recorded until nobody holds it up. */
const RECORDINGS = 8;

/**
 * The statements of a move and of its way back.
 *
 * @returns undefined when one of them took more than one try: what another try does is not done each time.
 */
async function thereAndBack(rig: PromotionRig): Promise<MovePoint[] | undefined> {
  const points = [...(await rig.record()), ...(await rig.record())];
  // Others roll back each time: what proves the way back leaves nothing behind.
  const isGivenUp = ({ session, text }: MovePoint): boolean => session === 'verdigris promotion' && text === 'ROLLBACK';
  return points.some(isGivenUp) ? undefined : points;
}

function isSame(a: MovePoint, b: MovePoint): boolean {
  return a.from === b.from && a.step === b.step && a.to === b.to && samePoint(a, b);
}

function describePoint({ from, step, to, session, text, nth }: MovePoint): string {
  const again = nth > 1 ? ` (${nth})` : '';
  return `${from} -> ${otherSide(from)} ${step.padEnd(7)} ${to.padEnd(5)} ${session.replace('verdigris ', '')}: ${text}${again}`;
}

function line(n: number, of: number, { point, when, outcome, seconds }: FaultOutcome): string {
  return `${String(n).padStart(4)}/${of} ${when.padEnd(6)} ${seconds.toFixed(1).padStart(5)} s  ${outcome.split('\n')[0] ?? ''}  ${point.slice(0, 150)}`;
}
