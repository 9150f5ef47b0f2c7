import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { personKey } from '../plan/person.js';
import { expired, refusedByRun, type RunView } from './judge-link.js';
import { readLink, type ApprovalLink } from './link.js';
import { answerPage, questionPage } from './page.js';

/*
 * The pages behind approval links. GET shows what would be approved and changes nothing, since chat programs and mail
 * scanners open every link; POST sends the approval to the run, as an update: the run has the last word.
 */

/** How the runs are reached. */
export interface Runs {
  /** @throws RunUnreachable */
  readonly view: (workflowId: string) => Promise<RunView>;
  /** Sends an approval; one that is sent again with the same id is the same one. @returns the run's answer. @throws ApprovalRefused, RunUnreachable */
  readonly approve: (workflowId: string, approval: SentApproval, id: string) => Promise<string>;
}

export interface SentApproval {
  readonly gate: string;
  readonly request: string;
  readonly by: string;
  readonly reason: string;
}

/** The run is gone, or nobody answers for it. */
export class RunUnreachable extends Error {
  override readonly name = 'RunUnreachable';

  constructor(
    readonly status: 410 | 503,
    message: string,
    cause?: unknown,
  ) {
    super(message, { cause });
  }
}

/** The run has refused the approval, and says why. */
export class ApprovalRefused extends Error {
  override readonly name = 'ApprovalRefused';
}

interface Answer {
  readonly status: number;
  readonly title: string;
  readonly text: string;
  /** Instead of a page that says `text`. */
  readonly page?: string;
}

const MOST_BODY = 8_192;
/** Of a name that somebody writes; it becomes part of the id of a message. */
const LONGEST_NAME = 100;
const PATH = /^\/approve\/([A-Za-z0-9_.-]{1,4000})$/;

export interface ServerOptions {
  readonly now?: () => number;
  /** Told, in a line, what nobody who opens a link could mend. It never holds the link. */
  readonly log?: (line: string) => void;
}

/**
 * @param secret asked for each link, since a store may mount another one at any time: links that were signed with the one before
 * are worthless from then on. What it throws is an answer 500, with a line in the log
 */
export function approvalServer(runs: Runs, secret: () => string, options: ServerOptions = {}): Server {
  const { now = Date.now, log = () => undefined } = options;
  const server = createServer({ requestTimeout: 10_000, headersTimeout: 5_000 }, (request, response) => {
    answer(runs, secret, now(), request)
      .catch((error: unknown): Answer => failed(error, withoutLink(request, log)))
      .then((result) => send(request, response, result))
      .catch((error: unknown) => {
        withoutLink(request, log)(`the answer could not be given: ${chainOf(error)}`);
        response.destroy();
      });
  });
  server.maxConnections = 200;
  return server;
}

async function answer(runs: Runs, secret: () => string, now: number, request: IncomingMessage): Promise<Answer> {
  const path = (request.url ?? '').split('?', 1)[0] ?? '';
  if (path === '/healthz') return { status: 200, title: 'ok', text: 'ok' };
  const token = PATH.exec(path)?.[1];
  if (token === undefined) return { status: 404, title: 'Not found', text: 'there is nothing here' };
  const method = request.method ?? '';
  if (!['GET', 'HEAD', 'POST'].includes(method)) {
    return { status: 405, title: 'Not approved', text: 'GET shows what is asked, POST approves it' };
  }
  const link = readLink(token, secret());
  if (link === undefined) {
    return { status: 403, title: 'Not approved', text: 'this link was not made here, or it has been changed' };
  }
  const late = expired(link, now);
  if (late !== undefined) return { status: late.status, title: 'Not approved', text: late.why };
  const run = await runs.view(link.workflowId);
  const refusal = refusedByRun(link, run);
  if (refusal !== undefined) return { status: refusal.status, title: 'Not approved', text: refusal.why };
  if (method !== 'POST') {
    const text = [run.waiting?.why ?? '', ...(run.waiting?.evidence ?? [])].join('\n');
    return { status: 200, title: `Approve ${link.gate} of ${run.name}?`, text, page: questionPage(link, run) };
  }
  return approve(runs, link, await formOf(request));
}

async function approve(runs: Runs, link: ApprovalLink, form: ReadonlyMap<string, string>): Promise<Answer> {
  const by = link.by ?? form.get('by')?.trim() ?? '';
  const reason = form.get('reason')?.trim() ?? '';
  if (by === '' || reason === '') {
    return {
      status: 422,
      title: 'Not approved',
      text: `say ${by === '' ? 'who you are ("by") and ' : ''}why ("reason")`,
    };
  }
  if (Math.max(by.length, personKey(by).length) > LONGEST_NAME) {
    return { status: 422, title: 'Not approved', text: `say who you are in ${LONGEST_NAME} characters at most` };
  }
  const approval = { gate: link.gate, request: link.request, by, reason };
  // Pressed twice at once, it is one approval: Temporal answers an update of the same id with the first one's result.
  // One that is given again after it expired is another.
  const asked = (await runs.view(link.workflowId)).decisions.filter(({ request }) => request === link.request).length;
  const text = await runs.approve(link.workflowId, approval, `link-${link.request}-${personKey(by)}-${asked}`);
  return { status: 200, title: 'Approved', text };
}

function failed(error: unknown, log: (line: string) => void): Answer {
  if (error instanceof ApprovalRefused) return { status: 409, title: 'Not approved', text: error.message };
  if (!(error instanceof BadRequest)) log(chainOf(error));
  if (error instanceof RunUnreachable) return { status: error.status, title: 'Not approved', text: error.message };
  if (error instanceof BadRequest) return { status: error.status, title: 'Not approved', text: error.message };
  return {
    status: 500,
    title: 'Not approved',
    text: 'the approval could not be sent; the log of this server says why',
  };
}

/** A log that the link is kept out of: whoever has it can approve. */
function withoutLink(request: IncomingMessage, log: (line: string) => void): (line: string) => void {
  const token = PATH.exec((request.url ?? '').split('?', 1)[0] ?? '')?.[1];
  return (text) => {
    const line = text.replaceAll(/\s+/g, ' ');
    log(token === undefined ? line : line.replaceAll(token, '***'));
  };
}

/** What an error says, and what it was made of. */
function chainOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return `${error.name}: ${error.message}${error.cause === undefined ? '' : `; from ${chainOf(error.cause)}`}`;
}

function send(request: IncomingMessage, response: ServerResponse, { status, title, text, page }: Answer): void {
  const json = (request.headers.accept ?? '').includes('application/json');
  const body = json ? `${JSON.stringify({ status, title, text })}\n` : (page ?? answerPage(title, text));
  response.writeHead(status, {
    'content-type': json ? 'application/json' : 'text/html; charset=utf-8',
    'content-length': Buffer.byteLength(body),
    // The address is the key: it must stay out of caches, of frames, and of what other servers are told.
    'cache-control': 'no-store',
    'referrer-policy': 'no-referrer',
    'content-security-policy': "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    'x-content-type-options': 'nosniff',
    // What is left of a body that was not read would be taken for the next request.
    ...(request.complete ? {} : { connection: 'close' }),
  });
  response.end(request.method === 'HEAD' ? undefined : body);
}

class BadRequest extends Error {
  constructor(
    readonly status: 400 | 413,
    message: string,
  ) {
    super(message);
  }
}

/** The fields of a form, or of a flat JSON object. */
async function formOf(request: IncomingMessage): Promise<ReadonlyMap<string, string>> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MOST_BODY) throw new BadRequest(413, 'that is too much text');
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString();
  if (!(request.headers['content-type'] ?? '').includes('application/json')) return new Map(new URLSearchParams(text));
  try {
    const parsed: unknown = JSON.parse(text);
    const entries = typeof parsed === 'object' && parsed !== null ? Object.entries(parsed) : [];
    return new Map(entries.filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
  } catch {
    throw new BadRequest(400, 'that is not JSON');
  }
}
