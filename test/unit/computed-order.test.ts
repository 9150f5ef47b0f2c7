import { describe, expect, it } from 'vitest';
import { computedOrder, type ComputedColumn } from '../../src/plan/computed-order.js';

const compute = (column: string, ...reads: string[]): ComputedColumn => ({ column, kind: 'compute', reads });
const fill = (column: string, ...reads: string[]): ComputedColumn => ({ column, kind: 'fill', reads });
const order = (...columns: ComputedColumn[]): string =>
  computedOrder(columns)
    .map(({ column }) => column)
    .join(' ');

describe('the order in which columns are computed', () => {
  it("is the plan's, but what is computed from a column that is filled later comes behind that one", () => {
    expect(order(compute('a', 'x'), fill('y'), compute('b', 'a'))).toBe('a y b');
    expect(order(compute('a', 'x'), compute('b', 'a'), fill('x', 'x'), fill('y'))).toBe('x a b y');
    expect(order(compute('a', 'x'), compute('b', 'y'), fill('x', 'b'))).toBe('b x a');
  });

  it("is the plan's among columns that are filled from each other, wherever they go", () => {
    expect(order(fill('x', 'y'), fill('y'))).toBe('x y');
    expect(order(compute('a', 'x'), fill('y', 'x'), fill('x', 'y'))).toBe('y x a');
  });

  it("is the plan's where columns are computed from each other in a circle", () => {
    expect(order(compute('a', 'x'), fill('y'), fill('x', 'a'))).toBe('a y x');
  });
});
