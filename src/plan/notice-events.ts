/** What a webhook can be told of. */
export const NOTICE_EVENTS = [
  'phase',
  'stage',
  'approval',
  'gateFailed',
  'alarm',
  'held',
  'promoted',
  'rollingBack',
  'rolledBack',
  'finished',
] as const;

export type NoticeEvent = (typeof NOTICE_EVENTS)[number];
