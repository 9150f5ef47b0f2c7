import type { Rollback } from '../messages.js';

/*
 * What a message must look like. Anybody may send one, of any shape.
 */

export function acceptsLoss(payload: unknown): boolean {
  return typeof payload === 'object' && payload !== null && (payload as Partial<Rollback>).acceptLoss === true;
}

/** Why `acceptLoss` is not understood; undefined where it is: "no" must not pass for anything. */
export function malformedAcceptance(payload: unknown): string | undefined {
  const { acceptLoss } = payload as { readonly acceptLoss?: unknown };
  return acceptLoss === undefined || typeof acceptLoss === 'boolean' ? undefined : '"acceptLoss" is true or false';
}

/** What is missing of these, with an example; undefined when nothing is. */
export function malformedMessage(payload: unknown, fields: readonly string[]): string | undefined {
  const example = `{${fields.map((field) => `"${field}": "..."`).join(', ')}}`;
  if (typeof payload !== 'object' || payload === null) return `send an object: ${example}`;
  const record = payload as Record<string, unknown>;
  const missing = fields.filter((field) => typeof record[field] !== 'string' || record[field].trim() === '');
  return missing.length === 0 ? undefined : `${missing.join(' and ')} missing: send ${example}`;
}
