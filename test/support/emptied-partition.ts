import { ApplicationFailure } from '@temporalio/common';
import { untilCancelled, type Overrides } from './scripted-run.js';

export const PARTITIONS = ['public.event_1'];
export const NEWS = {
  what: 'green: public.event_1 may have been emptied',
  emptied: { partitions: PARTITIONS, mark: 'a' },
};
export const LOSS =
  'what TRUNCATE may have removed from public.event_1 on green since rows were compared: blue may still have it';
export const EQUAL = {
  ...{ scope: 'changed', tables: 1, rowsVerified: 1, differingRows: 0, examples: [] },
  at: '2026-11-22T00:00:00Z',
};
export const DIFFERS = { ...EQUAL, differingRows: 9, examples: ['public.event "id" = 1: extra'] };

/** Green empties a partition in the standby window; the comparison of then does what it is told. */
export function emptiedOnGreen(verify: () => unknown): Overrides {
  return {
    watchSchema: (_run, _ref, side, told) => (side === 'green' && told === undefined ? NEWS : untilCancelled()),
    verify: (_run, _ref, source) => (source === 'green' ? verify() : EQUAL),
  };
}

export function emptied(): ApplicationFailure {
  return ApplicationFailure.nonRetryable('public.event_1 may have been emptied since', 'PartitionEmptied');
}
