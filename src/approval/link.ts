import { createHmac, timingSafeEqual } from 'node:crypto';

/*
 * A link that approves one question of one run, until some time, for one person. All that it may do is written in it and
 * signed, so nothing is kept anywhere: whether it has been used is what the run itself knows.
 */

/** What a link lets its holder do. */
export interface ApprovalLink {
  readonly workflowId: string;
  readonly runId: string;
  readonly gate: string;
  /** The id of the question: the same gate asked again is another one. */
  readonly request: string;
  /** Who approves with it; absent when the holder says so, which needs a plan that names nobody. */
  readonly by?: string;
  /** Seconds since 1970. */
  readonly expires: number;
}

/** So that a signature made for anything else with the same key is none for a link. */
const PURPOSE = 'verdigris approval link 1\n';

/** The part of the URL that carries the link. */
export function signLink(link: ApprovalLink, secret: string): string {
  const body = Buffer.from(JSON.stringify(link)).toString('base64url');
  return `${body}.${signature(body, secret).toString('base64url')}`;
}

/** The link in a token; undefined when somebody else made it, or changed it. Expired ones are read: their reader is told so. */
export function readLink(token: string, secret: string): ApprovalLink | undefined {
  const [body, mac, more] = token.split('.');
  if (body === undefined || mac === undefined || more !== undefined) return undefined;
  const given = Buffer.from(mac, 'base64url');
  const right = signature(body, secret);
  // A mac that was spelled in another way is refused too: one link has one text.
  if (given.length !== right.length || !timingSafeEqual(given, right) || given.toString('base64url') !== mac) {
    return undefined;
  }
  return JSON.parse(Buffer.from(body, 'base64url').toString()) as ApprovalLink;
}

function signature(body: string, secret: string): Buffer {
  return createHmac('sha256', secret).update(PURPOSE).update(body).digest();
}

/** The whole URL. @param base where `verdigris approvals serve` is reached, such as `https://approve.example.com` */
export function linkUrl(base: string, token: string): string {
  return `${base.replace(/\/+$/, '')}/approve/${token}`;
}
