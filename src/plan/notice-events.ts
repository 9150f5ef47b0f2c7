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

/** What may be told later when much has been sent. */
const CALM: ReadonlySet<NoticeEvent> = new Set(['phase', 'stage']);

/** Whether people must know it at once. There are few of these: each needs a person, or is the last one. */
export function isUrgent(event: NoticeEvent): boolean {
  return !CALM.has(event);
}
