import type { Notify } from '../plan/schema.js';

/** What is sent of a notice: the fields that both forms use. */
export interface Told {
  readonly sequence: number;
  readonly event: string;
  readonly text: string;
  /** ISO 8601. */
  readonly at: string;
  readonly writesOn: string;
  readonly waiting?:
    | {
        readonly gate?: string;
        readonly request?: string;
        readonly answer?: string;
        readonly evidence?: readonly string[];
        readonly mayApprove?: readonly string[];
      }
    | undefined;
}

export interface ToldRun {
  readonly name: string;
  readonly workflowId: string;
  readonly runId: string;
}

/** A link that approves, and whom it is made out to. */
export interface Link {
  readonly by?: string;
  readonly url: string;
}

/** The body of a request, in the form that the plan asks for. */
export function bodyOf(form: Notify['form'], run: ToldRun, notice: Told, links: readonly Link[]): string {
  if (form === 'json') return JSON.stringify({ version: 1, run, ...notice, ...(links.length === 0 ? {} : { links }) });
  return JSON.stringify({ text: slackText(run, notice, links) });
}

/**
 * The same of a notice whose text a receiver has refused: nothing that is long, and no SQL, command or address. A question keeps
 * its name, which is all that an answer needs.
 */
export function shortBodyOf(form: Notify['form'], run: ToldRun, notice: Told): string {
  const text = 'what this notice says was refused here: `verdigris status` shows it';
  return bodyOf(form, run, { ...notice, text, waiting: questionOf(notice) }, []);
}

function questionOf({ event, waiting }: Told): Told['waiting'] {
  if (event !== 'approval' || waiting === undefined) return undefined;
  const { gate, request, mayApprove } = waiting;
  return {
    ...(gate === undefined ? {} : { gate }),
    ...(request === undefined ? {} : { request }),
    ...(mayApprove === undefined ? {} : { mayApprove }),
  };
}

/** Lines for a channel. A link that is made out to one person is not shown to all who read there. */
function slackText(run: ToldRun, { event, text, at, writesOn, waiting }: Told, links: readonly Link[]): string {
  const open = links.filter(({ by }) => by === undefined).map(({ url }) => `<${url}|Look at it and approve>`);
  return [
    // It may be a day old by the time that somebody reads it.
    `*${plain(run.name)}* ${event} (${at}, writes on ${writesOn}): ${plain(text)}`,
    ...(waiting?.evidence ?? []).map((line) => `• ${plain(line)}`),
    ...(waiting?.mayApprove === undefined ? [] : [`May approve: ${plain(waiting.mayApprove.join(', '))}`]),
    ...open,
    ...(waiting?.answer === undefined || open.length > 0 ? [] : [`\`${plain(waiting.answer)}\``]),
  ].join('\n');
}

/** The three characters that mean something in Slack's text. */
function plain(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
