import type pg from 'pg';
import { FENCE_ERROR } from '../postgres/state.js';

/*
 * The fence says twice that it refused a write: by an error, and before that by a notice. A function that catches every
 * error swallows the first; nothing takes back the second, which is on its way to the client by then.
 */

const met = new WeakMap<pg.ClientBase, number>();

/** Counts the fence's notices of a connection. */
export function watchFence(client: pg.ClientBase): void {
  client.on('notice', ({ schema, constraint }) => {
    if (schema !== FENCE_ERROR.schema || constraint !== FENCE_ERROR.constraint) return;
    met.set(client, fencesMet(client) + 1);
  });
}

/** How often statements of this connection have met the fence so far, whether their errors were seen or not. */
export function fencesMet(client: pg.ClientBase): number {
  return met.get(client) ?? 0;
}
