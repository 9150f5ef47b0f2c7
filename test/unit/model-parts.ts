import { VerdigrisError } from '../../src/errors.js';

/*
 * What the programs of the models are made of: generators. Each `yield` is a point at which anything else may happen, and what
 * is yielded is the condition under which the program can go on.
 */

export type Program = Generator<() => boolean, void, void>;
export type Part<T> = Generator<() => boolean, T, void>;

export const ALWAYS = (): boolean => true;

/** A program gives up: what the code throws. */
export class GivenUp extends Error {}

export function must(condition: boolean): void {
  if (!condition) throw new GivenUp();
}

/** Whether a program has given up, by the model's word or by that of the product's own functions. */
export function hasGivenUp(error: unknown): error is GivenUp | VerdigrisError {
  return error instanceof GivenUp || error instanceof VerdigrisError;
}
