import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { BEFORE_PATCHES, HISTORIES, patchesOf, recorded } from '../support/recorded-histories.js';

/*
 * What the replay of recorded histories (test/workflow/replay.test.ts) says something about: a branch that none of them has
 * gone may be changed without anybody noticing that runs stand still.
 */

const ROOT = new URL('../../', import.meta.url);
const NEW = HISTORIES.filter((name) => !name.startsWith(BEFORE_PATCHES));

function sources(folder: string): { file: string; text: string }[] {
  return readdirSync(new URL(folder, ROOT), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => ({ file: folder + file, text: readFileSync(new URL(folder + file, ROOT), 'utf8') }));
}

const STRING = String.raw`'[^']*'|"[^"]*"`;

/** The ids of patched() in a file: written there, or in a constant of the file. */
function patchesIn({ file, text }: { file: string; text: string }): string[] {
  return [...text.matchAll(/(?<![\w.])patched\(\s*([^()]*?)\s*,?\s*\)/g)].map(([, id = '']) => {
    const constant = new RegExp(String.raw`const ${id} =\s*(${STRING});`).exec(text)?.[1];
    const [, written] = /^['"](.*)['"]$/.exec(constant ?? id) ?? [];
    if (written === undefined) throw new Error(`patched(${id}) in ${file}: no string, nor a constant of the file`);
    return written;
  });
}

const PATCHES = [...new Set(sources('workflows/').flatMap(patchesIn))].sort();

/** Why no recorded run comes by these. */
const NOT_RECORDED: Readonly<Record<string, string>> = {
  'the history is spared': 'its history would have 10,000 events; replayed by test/faults/history-room.faults.ts',
  'partitions that may have been emptied are compared in the way back':
    'replayed by test/long/emptied-partitions.long.ts',
  'webhooks lead back as soon as a pause stops a stage at its look at the load':
    'replayed by test/long/webhooks-in-stages.long.ts',
  'what ends without an answer asks for no loss':
    'an activity that Temporal has given up, after minutes; replayed by test/long/no-answer-no-loss.long.ts',
  'a run that was reset undoes what it does not remember': 'replayed by test/long/reset-before-claim.long.ts',
  'green is asked before it is dropped since a reset': 'replayed by test/long/reset-before-claim.long.ts',
  'what was being asked before a reset is asked anew only while blue has the writes':
    'replayed by test/long/webhooks-after-reset.long.ts',
  'changes that meet no row on blue have it compared at once': 'replayed by test/workflow/standby-events.test.ts',
  'what only a comparison ends has rows compared at once': 'replayed by test/workflow/standby-events.test.ts',
  'both databases are looked at again after a wait': 'replayed by test/long/window-waits.long.ts',
  'reads that a failed gate has taken back are asked for like the first ones':
    'replayed by test/long/approvals.long.ts',
  'what is owed after the promotion is tried on in the way back': 'replayed by test/long/way-back-owed.long.ts',
  'blue is asked where green does not say what has come of a way back': 'replayed by test/long/late-decisions.long.ts',
  'what blue lacks is looked at anew before a later try of the way back':
    'replayed by test/long/rollback-loss-answers.long.ts',
  'a comparison of the way back that takes long goes on beside its wait':
    'replayed by test/long/rollback-loss-answers.long.ts',
  'a way back that blue alone knows of is taken as it is': 'replayed by test/long/late-decisions.long.ts',
  'people are told when the gates of a stage that has passed say nothing any more':
    'replayed by test/long/gate-outcomes.long.ts',
  'a retirement that has taken nothing down may be rolled back': 'replayed by test/workflow/reads-leave-blue.test.ts',
  'a retirement is looked at before it begins': 'replayed by test/workflow/reads-leave-blue.test.ts',
  'a retirement that fails again and again is told': 'replayed by test/long/retirement-looks.long.ts',
  'what keeps the tries of a promotion from being ended is told': 'replayed by test/long/late-decisions.long.ts',
};

describe('patched() of the workflow', () => {
  const met = new Set(NEW.flatMap((name) => patchesOf(recorded(name))));

  it('is found wherever it is called', () => {
    const calls = sources('workflows/').flatMap(({ text }) => [...text.matchAll(/(?<![\w.])patched\(/g)]);
    expect(sources('workflows/').flatMap(patchesIn)).toHaveLength(calls.length);
    expect(PATCHES.length).toBeGreaterThan(50);
  });

  it.each(PATCHES)('%s: is met by a recorded run, or it is said why not', (id) => {
    expect([met.has(id), id in NOT_RECORDED]).toContain(true);
    // What is met needs no reason any more.
    expect(met.has(id) && id in NOT_RECORDED).toBe(false);
  });

  it.each(Object.keys(NOT_RECORDED))('%s: is there still', (id) => {
    expect(PATCHES).toContain(id);
  });

  it.each(NEW)('is met by %s', (name) => {
    expect(patchesOf(recorded(name)).length).toBeGreaterThan(0);
  });
});

describe('npm run record-histories', () => {
  const config = readFileSync(new URL('vitest.histories.config.ts', ROOT), 'utf8');
  const included = [...config.matchAll(/'(test\/(?!support)[^']+\.ts)'/g)].map(([, file = '']) => file);
  const support = sources('test/support/');
  /** The names under which a text records, as patterns. */
  const names = (text: string): RegExp[] =>
    [...text.matchAll(/(?:recordHistory|replayed)\(\s*\w+(?:\(\w*\)|\.\w+)?,\s*['`]([^'`]+)['`]/g)].map(
      ([, name = '']) => new RegExp(`^${name.replaceAll(/\$\{[^}]*\}/g, String.raw`[\w-]+`)}$`),
    );
  /** The functions of test/support that record, each with its text. */
  const recorders = support
    .flatMap(({ text }) => text.split(/^export /m))
    .flatMap((text) => {
      const name = /^async function (\w+)/.exec(text)?.[1];
      return name !== undefined && names(text).length > 0 ? [{ name, text }] : [];
    });
  /** What a test records, by itself or by a function of test/support. */
  const recordedBy = (text: string): RegExp[] => [
    ...names(text),
    ...recorders.flatMap((one) => (new RegExp(String.raw`\b${one.name}\b`).test(text) ? names(one.text) : [])),
  ];
  const tests = sources('test/').filter(({ file }) => !file.startsWith('test/support/'));

  it.each(NEW)('makes %s', (name) => {
    const by = tests.filter(({ text }) => recordedBy(text).some((one) => one.test(name)));
    expect(by.filter(({ file }) => included.includes(file))).not.toEqual([]);
  });

  it('has every test that records', () => {
    const recording = tests.filter(({ text }) => recordedBy(text).length > 0).map(({ file }) => file);
    expect(recording.sort()).toEqual([...included].sort());
  });
});
