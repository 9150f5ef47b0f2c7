import { Worker } from '@temporalio/worker';
import { beforeAll, describe, expect, it } from 'vitest';
import { testBundle } from '../support/bundle.js';
import { quietRuntime } from '../support/quiet-runtime.js';
import {
  BEFORE_PATCHES,
  HISTORIES,
  patchesOf,
  recorded,
  recordedText,
  type RecordedHistory,
} from '../support/recorded-histories.js';

/*
 * Histories of real runs, recorded by `npm run record-histories`. A change of the workflow that would break a run that
 * is under way fails here: it needs patched(), or a new recording when no run is old enough to meet it. What patched() of
 * the workflow they come by: test/unit/recorded-patches.test.ts.
 */

let workflowBundle: { code: string };
/** What is wrong with each, by its name. */
let wrong: ReadonlyMap<string, unknown>;

beforeAll(async () => {
  quietRuntime();
  workflowBundle = await testBundle();
  wrong = await replayAll(HISTORIES.map((name) => ({ name, history: recorded(name) })));
}, 120_000);

/** Replays them in one worker: to begin one takes longer than a history. */
async function replayAll(
  histories: readonly { readonly name: string; readonly history: RecordedHistory }[],
): Promise<ReadonlyMap<string, unknown>> {
  const named = histories.map(({ name, history }) => ({ workflowId: name, history }));
  const errors = new Map<string, unknown>();
  for await (const { workflowId, error } of Worker.runReplayHistories({ workflowBundle }, named)) {
    errors.set(workflowId, error);
  }
  return errors;
}

describe('recorded histories', () => {
  it('are there for every way in which a run ends', () => {
    expect(HISTORIES).toEqual(
      expect.arrayContaining([
        ...[
          'cancelled-in-traffic',
          'completed',
          'completed-pg15-pg18',
          'gate-failed',
          'reads-not-back',
          'refused',
          'reset',
          'webhooks',
        ],
        ...['rolled-back-in-standby', 'rolled-back-in-traffic', 'rolled-back-with-a-loss', 'way-back-given-up'],
        ...['cancelled', 'completed-pg15-pg18', 'failed-migrate', 'messages'].map((name) => BEFORE_PATCHES + name),
        ...['promote', 'standby', 'traffic'].map((phase) => `${BEFORE_PATCHES}rollback-${phase}`),
      ]),
    );
  });

  it.each(HISTORIES)('%s is replayed by the workflow as it is now', (name) => {
    expect(wrong.has(name)).toBe(true);
    expect(wrong.get(name)).toBeUndefined();
  });

  it('that another workflow made are refused: the replay can fail', async () => {
    const [other, patched] = [recorded('completed'), recorded('completed')];
    const scheduled = other.events.find(
      (event) => event.activityTaskScheduledEventAttributes?.activityType.name === 'copyRows',
    );
    if (scheduled?.activityTaskScheduledEventAttributes === undefined) throw new Error('no such event');
    scheduled.activityTaskScheduledEventAttributes.activityType.name = 'copySchema';
    const errors = await replayAll([
      { name: 'another activity', history: other },
      { name: 'a patch that the workflow does not know', history: withUnknownPatch(patched) },
      { name: 'as it is', history: recorded('completed') },
    ]);
    expect(String(errors.get('another activity'))).toMatch(/determinism|Nondeterminism/i);
    expect(String(errors.get('a patch that the workflow does not know'))).toMatch(/determinism|Nondeterminism/i);
    expect(errors.get('as it is')).toBeUndefined();
  });

  it('hold no secret', () => {
    for (const name of HISTORIES) {
      const text = recordedText(name);
      const payloads = [...text.matchAll(/"data":"([^"]+)"/g)].map((m) => Buffer.from(m[1] ?? '', 'base64').toString());
      for (const content of [text, ...payloads]) expect(content).not.toMatch(/postgres(ql)?:\/\/\w|password=/);
    }
  });
});

/** As the history is for a workflow from which a patched() was taken: that branch is not gone any more. */
function withUnknownPatch(history: RecordedHistory): RecordedHistory {
  const [patch] = patchesOf(history);
  const marker = history.events.find((event) => event.markerRecordedEventAttributes !== undefined);
  const payload = marker?.markerRecordedEventAttributes?.details['patch-data']?.payloads[0];
  if (patch === undefined || payload === undefined) throw new Error('no marker');
  payload.data = Buffer.from(JSON.stringify({ id: `${patch}, once`, deprecated: false })).toString('base64');
  return history;
}
