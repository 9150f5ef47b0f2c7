/*
 * Prometheus' text format, version 0.0.4, as far as a metrics page needs it:
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */

export interface ExposedSample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*$/;
const LABEL = /\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,|$)/y;

/** Reads a metrics page. @throws SyntaxError that names the line, not what is in it. */
export function parseExposition(text: string): ExposedSample[] {
  const samples: ExposedSample[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const [, name, labels = '', value] = LINE.exec(line) ?? [];
    const parsed = parseLabels(labels);
    const number = numberOf(value);
    if (name === undefined || parsed === undefined || number === undefined) {
      throw new SyntaxError(`line ${index + 1} is not in Prometheus' text format`);
    }
    samples.push({ name, labels: parsed, value: number });
  }
  return samples;
}

/** Writes samples of one metric, the other way round: for an application that counts by itself. */
export function formatExposition(
  name: string,
  kind: 'counter' | 'gauge' | 'histogram',
  help: string,
  samples: readonly ExposedSample[],
): string {
  const lines = samples.map(({ name: sample, labels, value }) => {
    const list = Object.entries(labels).map(([key, text]) => `${key}="${escaped(text)}"`);
    return `${sample}${list.length === 0 ? '' : `{${list.join(',')}}`} ${formatNumber(value)}`;
  });
  const comment = help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
  return [`# HELP ${name} ${comment}`, `# TYPE ${name} ${kind}`, ...lines, ''].join('\n');
}

/** A number as Prometheus writes it. */
export function numberOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const special = SPECIAL[text];
  if (special !== undefined) return special;
  return /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(text) ? Number(text) : undefined;
}

const SPECIAL: Readonly<Record<string, number>> = { NaN, '+Inf': Infinity, Inf: Infinity, '-Inf': -Infinity };

function formatNumber(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  return Number.isFinite(value) ? String(value) : value > 0 ? '+Inf' : '-Inf';
}

function parseLabels(text: string): Record<string, string> | undefined {
  const labels: [string, string][] = [];
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < text.length) {
    const match = LABEL.exec(text);
    if (match === null) return undefined;
    labels.push([match[1] ?? '', unescaped(match[2] ?? '')]);
  }
  return Object.fromEntries(labels);
}

function escaped(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}

function unescaped(text: string): string {
  return text.replaceAll(/\\(.)/g, (_, char: string) => (char === 'n' ? '\n' : char));
}
