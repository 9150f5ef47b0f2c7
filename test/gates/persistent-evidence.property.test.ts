import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Chance } from '../../bench/gates/chance.js';
import {
  evidenceAbove,
  evidenceLarger,
  FALSE_ALARM,
  suffices,
  type Piece,
  type Pieces,
} from '../../src/gates/persistent-evidence.js';
import { judgeShare } from '../../src/gates/share.js';
import { Slices } from '../../src/gates/slices.js';

const SHARE = fc.double({ min: 1e-4, max: 0.5, noNaN: true });
const part = fc
  .tuple(fc.integer({ min: 0, max: 2_000 }), fc.double({ min: 0, max: 1, noNaN: true }))
  .map(([of, share]) => ({ of, surely: Math.floor(of * share ** 3) }));
const piece: fc.Arbitrary<Piece> = fc
  .tuple(part, part)
  .map(([green, blue]) => ({ ...green, blueHits: blue.surely, blueOf: blue.of }));
const pieces = fc.array(piece, { minLength: 1, maxLength: 40 });

function piecesOf(list: readonly Piece[], noOutage = false): Pieces<Piece> {
  return { slices: new Slices(list), name: 'reads', count: (one) => one, noOutage };
}

function sum(list: readonly Piece[], of: (one: Piece) => number): number {
  return list.reduce((total, one) => total + of(one), 0);
}

/** What the gate says of a stage of these slices. */
function outcome(share: number, list: readonly Piece[], noOutage = false, isBeside = true): string {
  const [hits, requests] = [sum(list, (one) => one.surely), sum(list, (one) => one.of)];
  return judgeShare({
    share,
    green: { surely: hits, possibly: hits, of: requests },
    blue: { hits: sum(list, (one) => one.blueHits), of: sum(list, (one) => one.blueOf), isBeside },
    what: 'reads',
    pieces: piecesOf(list, noOutage),
  }).outcome;
}

/** Slices of a stage, and the number of the one after which it fails at a look after each; undefined when it never does. */
function failsAfter(share: number, count: number, next: (number: number) => Piece): number | undefined {
  const slices = new Slices<Piece>();
  const all: Pieces<Piece> = { slices, name: 'reads', count: (one) => one };
  for (let number = 0; number < count; number++) {
    slices.append(next(number));
    if (!suffices(evidenceAbove(all, share, false), FALSE_ALARM)) continue;
    if (suffices(evidenceLarger(all), FALSE_ALARM)) return number;
  }
  return undefined;
}

describe('evidence that is collected slice by slice', () => {
  test('is monotonic: one more hit on green never weakens it', () => {
    fc.assert(
      fc.property(SHARE, pieces, fc.nat(), fc.boolean(), (share, list, at, noOutage) => {
        const index = at % list.length;
        const worse = list.map((one, i) => (i === index ? { ...one, surely: Math.min(one.of, one.surely + 1) } : one));
        for (const evidence of [
          (of: readonly Piece[]) => evidenceAbove(piecesOf(of, noOutage), share, false),
          (of: readonly Piece[]) => evidenceAbove(piecesOf(of, noOutage), share, true),
          (of: readonly Piece[]) => evidenceLarger(piecesOf(of, noOutage)),
        ]) {
          const before = evidence(list);
          evidence(worse).forEach((value, ratio) => {
            expect(value).toBeGreaterThanOrEqual((before[ratio] ?? 0) * (1 - 1e-9));
          });
        }
      }),
    );
  });

  test('never fails a green that has in each slice what blue has', () => {
    fc.assert(
      fc.property(
        SHARE,
        fc.array(part, { minLength: 1, maxLength: 60 }),
        fc.integer({ min: 1, max: 99 }),
        (share, own, times) => {
          const list = own.map((one) => ({ ...one, blueHits: one.surely * times, blueOf: one.of * times }));
          expect(outcome(share, list)).not.toBe('fail');
        },
      ),
    );
  });

  test('two slices fail nothing, nor do six of an endpoint, whatever happened in them', () => {
    const good: Piece = { surely: 0, of: 500, blueHits: 0, blueOf: 50_000 };
    fc.assert(
      fc.property(SHARE, fc.nat(30), fc.array(piece, { minLength: 1, maxLength: 6 }), (share, before, bad) => {
        const quiet = Array.from({ length: before }, () => good);
        expect(outcome(share, [...quiet, ...bad.slice(0, 2)])).not.toBe('fail');
        expect(outcome(share, [...quiet, ...bad], true)).not.toBe('fail');
      }),
    );
  });

  test('is the same when a worker goes on from what another one has kept', () => {
    fc.assert(
      fc.property(SHARE, pieces, pieces, (share, before, after) => {
        const first = piecesOf(before);
        evidenceAbove(first, share, false);
        const resumed = new Slices(after, structuredClone(first.slices.state()));
        expect(evidenceAbove({ ...piecesOf([]), slices: resumed }, share, false)).toEqual(
          evidenceAbove(piecesOf([...before, ...after]), share, false),
        );
      }),
    );
  });

  test('looks at a slice that is not over without keeping it', () => {
    const all = piecesOf([{ surely: 0, of: 100, blueHits: 0, blueOf: 100 }]);
    const before = evidenceAbove(all, 0.01, false);
    all.slices.current = { surely: 50, of: 100, blueHits: 0, blueOf: 100 };
    expect(suffices(evidenceAbove(all, 0.01, false), 1)).toBe(true);
    all.slices.current = undefined;
    expect(evidenceAbove(all, 0.01, false)).toEqual(before);
  });
});

describe('a stage of a quarter of an hour, looked at after each slice', () => {
  const SLICES = 180;
  const RUNS = 400;

  /** Runs that fail, of all. */
  function failing(share: number, next: (chance: Chance, number: number) => Piece): number {
    return Array.from({ length: RUNS }, (_, run) => {
      const chance = new Chance(run + 1);
      return failsAfter(share, SLICES, (number) => next(chance, number));
    }).filter((slice) => slice !== undefined).length;
  }

  function counted(chance: Chance, of: number, greenShare: number, blueShare: number): Piece {
    const blueOf = 10 * of;
    return { of, surely: chance.binomial(of, greenShare), blueOf, blueHits: chance.binomial(blueOf, blueShare) };
  }

  test.each([20, 200, 2_000])('never fails a green that is at its limit, as blue is, at %i reads a slice', (of) => {
    expect(failing(0.001, (chance) => counted(chance, of, 0.001, 0.001))).toBe(0);
  });

  test.each([20, 200, 2_000])('never fails one with bad moments that last up to 15 s, at %i reads a slice', (of) => {
    expect(
      failing(0.001, (chance, number) => {
        // Every three minutes, each time on the other side, three slices long: in them everything that an endpoint has fails.
        const [bad, side] = [number % 36 < 3, Math.floor(number / 36) % 2];
        return counted(chance, of, bad && side === 0 ? 0.2 : 0.0002, bad && side === 1 ? 0.2 : 0.0002);
      }),
    ).toBe(0);
  });

  test('never fails one whose errors come in long bursts that both sides have', () => {
    expect(
      failing(0.001, (chance, number) => {
        const share = number % 40 < 12 ? 0.1 : 0.0002;
        return counted(chance, 500, share, share);
      }),
    ).toBe(0);
  });

  test('fails one of which 0.5 % are broken, in nearly every run', () => {
    expect(failing(0.001, (chance) => counted(chance, 100, 0.005, 0.0002))).toBeGreaterThan(0.95 * RUNS);
  });

  test('fails one that has been good for an hour, though its share of the whole stage is within the limit', () => {
    const list = Array.from({ length: 760 }, (_, number): Piece => {
      const surely = number < 720 ? 0 : 10;
      return { surely, of: 1_000, blueHits: 0, blueOf: 10_000 };
    });
    expect(sum(list, (one) => one.surely) / sum(list, (one) => one.of)).toBeLessThan(0.001);
    expect(outcome(0.001, list)).toBe('fail');
  });

  test('without blue beside it, it takes longer, and one as bad as blue was is not blamed', () => {
    const broken = (slices: number): Piece[] =>
      Array.from({ length: slices }, () => ({ surely: 10, of: 200, blueHits: 0, blueOf: 0 }));
    const judged = (slices: number, hits: number): string => {
      const list = broken(slices);
      const of = sum(list, (one) => one.of);
      return judgeShare({
        share: 0.001,
        green: { surely: of / 20, possibly: of / 20, of },
        blue: { hits, of: 100_000 },
        what: 'reads',
        pieces: piecesOf(list),
      }).outcome;
    };
    expect(judged(8, 10)).toBe('inconclusive');
    expect(judged(20, 10)).toBe('fail');
    expect(judged(20, 5_000)).toBe('inconclusive');
  });
});
