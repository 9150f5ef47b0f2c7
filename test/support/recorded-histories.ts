import { readdirSync, readFileSync } from 'node:fs';

/** Histories of real runs, by `npm run record-histories`. */
const FOLDER = new URL('../histories/', import.meta.url);

/** Those of before the first patched(): runs of 23 to 28 November 2026, which later versions have to replay as well. */
export const BEFORE_PATCHES = 'before-patches/';

/** Their names, without the ending. */
export const HISTORIES: readonly string[] = readdirSync(FOLDER, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.json'))
  .map((file) => file.slice(0, -'.json'.length))
  .sort();

/** As much of an event as tests look at. */
export interface RecordedEvent {
  activityTaskScheduledEventAttributes?: { activityType: { name: string } };
  markerRecordedEventAttributes?: { details: Record<string, { payloads: { data: string }[] }> };
}

export interface RecordedHistory {
  events: RecordedEvent[];
}

export function recordedText(name: string): string {
  return readFileSync(new URL(`${name}.json`, FOLDER), 'utf8');
}

export function recorded(name: string): RecordedHistory {
  return JSON.parse(recordedText(name)) as RecordedHistory;
}

/** The ids of the patched() that a run has come by. */
export function patchesOf({ events }: RecordedHistory): string[] {
  return events.flatMap(({ markerRecordedEventAttributes: marker }) =>
    (marker?.details['patch-data']?.payloads ?? []).map(({ data }) => {
      const { id } = JSON.parse(Buffer.from(data, 'base64').toString()) as { id: string };
      return id;
    }),
  );
}
