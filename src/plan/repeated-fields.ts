import { placeOf, type Finding } from './finding.js';

/** The rule that a field stands once: known from the text of a plan alone, since `JSON.parse` keeps the last one. */
export const REPEATED_FIELD = 'repeated-field';

const WHY =
  'of two fields of one name the last one counts and the others are dropped without a word: the run would not do what its author believes it does';

/**
 * The fields that stand twice in the text of a plan, with their lines: one finding for each time that it is not the first.
 *
 * @param text JSON that `JSON.parse` has read
 */
export function repeatedFields(text: string): Finding[] {
  const findings: Finding[] = [];
  const open: Part[] = [];
  let line = 1;
  for (const [token] of text.matchAll(TOKENS)) {
    const part = open.at(-1);
    if (token === '\n') line += 1;
    else if (token === '{') open.push({ kind: 'object', lines: new Map(), field: null });
    else if (token === '[') open.push({ kind: 'array', index: 0 });
    else if (token === '}' || token === ']') open.pop();
    else if (part?.kind === 'array') part.index += token === ',' ? 1 : 0;
    else if (part?.kind !== 'object') continue;
    else if (token === ',') part.field = null;
    else if (part.field === null) {
      part.field = String(JSON.parse(token));
      const first = part.lines.get(part.field);
      if (first === undefined) part.lines.set(part.field, line);
      else findings.push(repeatedField(part.field, open.map(stepInto), first, line));
    }
  }
  return findings;
}

/** What tells where a field begins; numbers, `true`, `false`, `null` and colons don't. */
const TOKENS = /"(?:[^"\\]|\\.)*"|[{}[\],]|\n/g;

/** An object or an array that has begun and not ended yet. */
type Part =
  | { readonly kind: 'object'; readonly lines: Map<string, number>; field: string | null }
  | { readonly kind: 'array'; index: number };

function stepInto(part: Part): PropertyKey {
  return part.kind === 'array' ? part.index : (part.field ?? '');
}

function repeatedField(field: string, path: readonly PropertyKey[], first: number, line: number): Finding {
  const isOperation = path.length === 3 && path[0] === 'migrations';
  return {
    rule: REPEATED_FIELD,
    severity: 'error',
    place: placeOf(path),
    message:
      first === line
        ? `"${field}" stands twice in line ${line}`
        : `"${field}" in line ${line} stands in line ${first} already`,
    why: WHY,
    instead: isOperation
      ? `make each a step of its own: { "${field}": { … } }, { "${field}": { … } }`
      : `keep one "${field}", with all that is meant`,
  };
}
