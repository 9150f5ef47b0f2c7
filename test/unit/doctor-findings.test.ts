import { describe, expect, it } from 'vitest';
import { diagnose } from '../../src/postgres/doctor/diagnose.js';
import type { Found, Inventory } from '../../src/postgres/doctor/inventory.js';
import { judge } from '../../src/postgres/doctor/who-is-primary.js';
import { ALL_TABLES } from '../../src/postgres/catalog-pattern.js';
import { planCleaning } from '../../src/postgres/doctor/plan-cleaning.js';
import { planOpeningBlue } from '../../src/postgres/doctor/open-blue.js';
import type { Databases } from '../../src/postgres/session.js';
import type { Side } from '../../src/side.js';

/* What `verdigris doctor` ends with 0 for has no finding but notes. */

const LIVES = { state: 'lives', why: 'verdigris/m runs' } as const;
const OVER = { state: 'over', why: 'verdigris/m was terminated' } as const;

type Changes = Partial<Inventory> & { readonly epoch?: number; readonly writesOn?: Side };

function side(side: Side, { epoch = 2, writesOn = 'green', ...changes }: Changes): Found[Side] {
  const route = { migration: 'm', epoch, writesOn, greenReadPercent: 100, opening: null, generation: 0, flag: 'f' };
  const isPrimary = writesOn === side;
  const fence = [{ table: 'public.t', state: isPrimary ? 'disabled' : 'armed' }];
  const inventory = {
    ...{ side, route, fence, fenceOpen: isPrimary, settled: true, otherMigrations: [], slots: [], subscriptions: [] },
    owner: { migration: 'm', runId: 'r', side, outcome: null, claimedEpoch: 1 },
    ...{
      invalidIndexes: [],
      publications: [],
      upDown: [],
      eventTriggers: [],
      proofs: [],
      sessions: [],
      lockHolders: [],
    },
    ...changes,
  };
  return { reached: true, inventory: inventory as unknown as Inventory };
}

function findings(blue: Changes, green: Changes): string[] {
  const found: Found = { blue: side('blue', blue), green: side('green', green) };
  return diagnose(found, judge(found), LIVES)
    .filter(({ severity }) => severity !== 'note')
    .map(({ severity, side, what, next }) => `${severity} ${side ?? ''}: ${what}. ${next}`);
}

describe('doctor', () => {
  it('finds nothing wrong in a standby window', () => {
    expect(findings({}, {})).toEqual([]);
  });

  it('where it is not certain who is primary, that is a problem', () => {
    const contradicting = findings({ writesOn: 'blue' }, {});
    expect(contradicting).toEqual([expect.stringMatching(/^problem : .*same epoch 2 and name different sides/)]);
    const stillOpen = findings({ fenceOpen: true }, { epoch: 1, writesOn: 'blue', fenceOpen: false });
    expect(stillOpen).toEqual([expect.stringMatching(/^problem : .*applications can still write on blue/)]);
  });

  it('nor for the next plan of a chain, whose run has not begun', () => {
    const ended = { migration: 'm', runId: 'r', side: 'green', outcome: 'completed', claimedEpoch: 1 };
    const owner = ended as unknown as NonNullable<Inventory['owner']>;
    const next = { owner: null, route: null, fence: [], fenceOpen: null };
    const found: Found = { blue: side('blue', { owner, fence: [], fenceOpen: true }), green: side('green', next) };
    expect(judge(found)).toMatchObject({ isCalm: true, why: expect.stringContaining('no run has begun') as string });
  });

  it('but not while a move is in its last step', () => {
    expect(findings({}, { settled: false })).toEqual([]);
    const settling = { pid: 7, seconds: 20, awaitsStandby: false };
    expect(findings({}, { settled: false, settling })).toEqual([]);
    const long = findings({}, { settled: false, settling: { ...settling, seconds: 3_600 } });
    expect(long).toEqual([
      expect.stringMatching(/^problem : green .*pid 7 has had for 60 minutes.*terminate_backend\(7\)/),
    ]);
  });

  it('nor where the COMMIT of that step waits for a synchronous standby, which nobody ends: no write goes on', () => {
    const settling = { pid: 7, seconds: 20, awaitsStandby: true };
    expect(findings({ settled: false, settling }, { settled: false, settling })).toEqual([
      expect.stringMatching(/^problem : .*\(pid 7\) waits for a synchronous standby.*synchronous_standby_names/),
    ]);
  });

  it('a run that lives while green is lost is to be terminated: its rollback would wait for green', async () => {
    const found: Found = { blue: side('blue', {}), green: { reached: false, side: 'green', why: 'no answer' } };
    const plan = await planOpeningBlue({} as Databases, found, LIVES, 'm', ALL_TABLES);
    expect(plan).toMatchObject({ refused: true, why: 'the run lives: verdigris/m runs' });
    expect(JSON.stringify(plan)).toMatch(/terminate it first.*a rollback would wait/);
    // Of sessions that are left, when a person has said that it is over.
    const held = await planOpeningBlue({} as Databases, found, { ...LIVES, next: 'end them' }, 'm', ALL_TABLES);
    expect(held).toMatchObject({ refused: true, next: 'end them' });
  });

  it('of green alone it says whether that has ever had the writes', () => {
    const alone = (green: Changes): string => {
      const found: Found = { blue: { reached: false, side: 'blue', why: 'no answer' }, green: side('green', green) };
      const verdict = judge(found);
      expect(verdict.kind).toBe('unknown');
      return verdict.why;
    };
    const never = alone({ epoch: 1, writesOn: 'blue', fenceOpen: true });
    expect(never).toMatch(
      /^green has never had the writes, as far as it knows; blue, .* can't be reached \(no answer\)/,
    );
    expect(alone({ epoch: 3, writesOn: 'blue' })).toMatch(/^green has given the writes to blue at epoch 3 and/);
  });

  it('says that an option by name has done nothing, where it is not certain who is primary', () => {
    const found: Found = {
      blue: { reached: false, side: 'blue', why: 'no answer' },
      green: side('green', { epoch: 3, writesOn: 'blue', schema: true, dependents: [], copied: 0 }),
    };
    const why = (release: Partial<Record<Side, string>>): string => {
      const plan = planCleaning(found, judge(found), OVER, { release });
      return plan.refused ? plan.why : plan.kept.map((kept) => kept.why).join();
    };
    expect(why({ green: 'm' })).toMatch(
      /--release-green does nothing here, since who is primary is not certain: green has given/,
    );
    expect(why({})).not.toContain('--release-green');
  });

  it('a feed to blue that is disabled, or whose slot on green has lost WAL, is told as the way back that it was', () => {
    const subscription = { name: 'to_blue', enabled: false, workers: 0, errors: 0 };
    expect(findings({ subscriptions: [subscription] as unknown as Inventory['subscriptions'] }, {})).toEqual([
      expect.stringMatching(/^problem blue: subscription to_blue is disabled.*ALTER SUBSCRIPTION "to_blue" ENABLE/),
    ]);
    const slot = { name: 'to_blue', walStatus: 'lost', origin: 'run', active: false, retainedBytes: 0 };
    const lost = findings({}, { slots: [slot] as unknown as Inventory['slots'] });
    expect(lost).toEqual([expect.stringMatching(/^problem green: .*stay on green \(`retire`\), or accept the loss/)]);
    expect(lost.join()).not.toContain('roll the run back');
  });

  it('up/down triggers that cleaning leaves for the writes of green are a note with what drops them', () => {
    const green: Changes = {
      upDown: ['public.t'],
      owner: { migration: 'm', side: 'green', outcome: 'cleaned', claimedEpoch: 1 } as Inventory['owner'],
    };
    const told = (onlyFilled: readonly string[]): string[] => {
      const found: Found = { blue: side('blue', { owner: null }), green: side('green', { ...green, onlyFilled }) };
      return diagnose(found, judge(found), OVER)
        .filter(({ side }) => side === 'green')
        .map(({ severity, what, next }) => `${severity}: ${what}. ${next}`);
    };
    expect(told(['public.t.c'])).toEqual([
      expect.stringMatching(/^note: kept, .*\(public\.t\.c\): up\/down trigger of public\.t\. .*--drop-triggers m$/),
    ]);
    expect(told([])).toEqual([expect.stringMatching(/^leftover: left by a run that is over: up\/down trigger/)]);
  });
});
