import { expect, test } from 'vitest';
import type { Haproxies } from '../../src/haproxy/haproxy.js';
import { setByOthers } from '../../src/haproxy/set-by-others.js';

const setup: Haproxies = {
  migration: 'set_by_others',
  instances: [{ connection: 'edge', address: { path: '/nowhere' } }],
  backend: 'reads',
  servers: { blue: 'blue', green: 'green' },
  openConnections: 'leave',
};
const other = (stamp: string) => [{ connection: 'edge', stamp }];

test('two reloads that two watches see are two; an agent that goes on is found', () => {
  const looks = [0, 300, 30_000, 30_400].map((now) => setByOthers(setup, other('7/1'), now));
  expect(looks).toEqual([[], [], [], []]);
  expect(setByOthers(setup, [], 100_000)).toEqual([]);
  const agent = Array.from({ length: 10 }, (_, i) => setByOthers(setup, other('7/1'), 200_000 + i * 500));
  expect(agent.findIndex((contested) => contested.length > 0)).toBe(8);
  // Another share is told once, by whoever looks first.
  expect(setByOthers(setup, other('7/2'), 205_000)).toEqual([]);
});
