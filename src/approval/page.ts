import type { ApprovalLink } from './link.js';
import type { RunView } from './judge-link.js';

/** The page of a question: what is approved, with its evidence, and a button. Opening it approves nothing. */
export function questionPage(link: ApprovalLink, run: RunView): string {
  const { waiting } = run;
  const { why = '', quorum = 1, approvals = [], evidence = [] } = waiting ?? {};
  return page(
    `Approve ${link.gate} of ${run.name}?`,
    [
      `<p><strong>${escape(why)}</strong></p>`,
      `<p>Question ${escape(link.request)}, asked at ${escape(waiting?.since ?? '')}. ${approvals.length} of ${quorum} have approved.</p>`,
      list(approvals.map(({ by, at, reason }) => `${by} at ${at}: ${reason}`)),
      '<h2>What is known</h2>',
      '<p>Measurements have the time at which they were made: nothing was measured anew for this page.</p>',
      list(evidence),
      '<form method="post">',
      link.by === undefined
        ? '<p><label>Your name <input name="by" required maxlength="100" autocomplete="name"></label></p>'
        : `<p>You approve as <strong>${escape(link.by)}</strong>.</p>`,
      '<p><label>Why <input name="reason" required maxlength="500"></label></p>',
      '<p><button type="submit">Approve</button></p>',
      '</form>',
      `<p>This link is for this question only, until ${new Date(link.expires * 1_000).toISOString()}.</p>`,
    ].join('\n'),
  );
}

/** A page that says one thing. */
export function answerPage(title: string, text: string): string {
  return page(title, `<p>${escape(text)}</p>`);
}

function page(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">
<title>${escape(title)}</title></head>
<body>
<h1>${escape(title)}</h1>
${body}
</body>
</html>
`;
}

function list(lines: readonly string[]): string {
  return lines.length === 0 ? '' : `<ul>${lines.map((line) => `<li>${escape(line)}</li>`).join('\n')}</ul>`;
}

/** Names, reasons and evidence come from people and databases. */
function escape(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&#39;');
}
