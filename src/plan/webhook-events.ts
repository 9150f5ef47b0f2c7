/** What a webhook that moves traffic can be called for. */
export const WEBHOOK_SUBJECTS = ['stage', 'promote', 'rollback'] as const;

export type WebhookSubject = (typeof WEBHOOK_SUBJECTS)[number];

/** What a webhook is called with, and the subject that it belongs to. docs/webhooks.md says when each comes. */
export const WEBHOOK_EVENTS = {
  stage: 'stage',
  readsBack: 'stage',
  promoting: 'promote',
  notPromoted: 'promote',
  promoted: 'promote',
  rollingBack: 'rollback',
  rolledBack: 'rollback',
} as const satisfies Record<string, WebhookSubject>;

export type WebhookEvent = keyof typeof WEBHOOK_EVENTS;

/** Before these nothing has moved yet, so the receiver may refuse. All others tell what is. */
export const ASKING_EVENTS = ['stage', 'promoting'] as const satisfies readonly WebhookEvent[];

export type AskingEvent = (typeof ASKING_EVENTS)[number];
export type TellingEvent = Exclude<WebhookEvent, AskingEvent>;
