import { readdirSync, readFileSync } from 'node:fs';
import { Worker } from '@temporalio/worker';
import { beforeAll, describe, expect, it } from 'vitest';
import { testBundle } from '../support/bundle.js';

/*
 * Histories of real runs, recorded by `npm run record-histories`. A change of the workflow that would break a run that
 * is under way fails here: it needs patched(), or a new recording when no run is old enough to meet it.
 */
const FOLDER = new URL('../histories/', import.meta.url);
const HISTORIES = readdirSync(FOLDER).filter((name) => name.endsWith('.json'));

interface RecordedHistory {
  events: { activityTaskScheduledEventAttributes?: { activityType: { name: string } } }[];
}

let workflowBundle: { code: string };

beforeAll(async () => {
  workflowBundle = await testBundle();
});

function recorded(name: string): RecordedHistory {
  return JSON.parse(readFileSync(new URL(name, FOLDER), 'utf8')) as RecordedHistory;
}

describe('recorded histories', () => {
  it('are there for every way in which a run ends', () => {
    expect(HISTORIES).toEqual(
      expect.arrayContaining([
        'cancelled.json',
        'completed-pg15-pg18.json',
        'failed-migrate.json',
        'messages.json',
        'rollback-promote.json',
        'rollback-standby.json',
        'rollback-traffic.json',
      ]),
    );
  });

  it.each(HISTORIES)('%s is replayed by the workflow as it is now', async (name) => {
    await Worker.runReplayHistory({ workflowBundle }, recorded(name));
  });

  it('that another workflow made is refused: the replay can fail', async () => {
    const history = recorded('completed-pg15-pg18.json');
    const scheduled = history.events.find(
      (event) => event.activityTaskScheduledEventAttributes?.activityType.name === 'copySchema',
    );
    if (scheduled?.activityTaskScheduledEventAttributes === undefined) throw new Error('no such event');
    scheduled.activityTaskScheduledEventAttributes.activityType.name = 'copyRows';
    await expect(Worker.runReplayHistory({ workflowBundle }, history)).rejects.toThrow(/determinism|Nondeterminism/i);
  });

  it('hold no secret', () => {
    for (const name of HISTORIES) {
      const text = readFileSync(new URL(name, FOLDER), 'utf8');
      const payloads = [...text.matchAll(/"data":"([^"]+)"/g)].map((m) => Buffer.from(m[1] ?? '', 'base64').toString());
      for (const content of [text, ...payloads]) expect(content).not.toMatch(/postgres(ql)?:\/\/\w|password=/);
    }
  });
});
