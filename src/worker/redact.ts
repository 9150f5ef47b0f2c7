/** Takes secrets out of text that leaves the worker: error messages, logs, heartbeats. */
export type Redact = (text: string) => string;

/** A URI with a password, or the password field of a conninfo, whoever wrote it. */
const PASSWORD_FORMS: readonly [RegExp, string][] = [
  [/(postgres(?:ql)?:\/\/[^:@/\s]*):[^@\s]*@/g, '$1:***@'],
  [/(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)/gi, '$1***'],
];

/** @param later secrets that have come since, asked for each text. Default: none */
export function redactor(secrets: readonly string[], later: () => readonly string[] = () => []): Redact {
  return (text) => {
    let clean = text;
    // Longest first, so that a secret that holds another one goes whole. Very short ones would cut ordinary words.
    const known = [...new Set([...secrets, ...later()].flatMap(asWritten))].filter((s) => s.length >= 4);
    for (const secret of known.sort((a, b) => b.length - a.length)) clean = clean.replaceAll(secret, '***');
    for (const [form, replacement] of PASSWORD_FORMS) clean = clean.replaceAll(form, replacement);
    return clean;
  };
}

/** A log's line is JSON, in which quotes, backslashes and line breaks are written otherwise. */
function asWritten(secret: string): string[] {
  return [secret, JSON.stringify(secret).slice(1, -1)];
}
