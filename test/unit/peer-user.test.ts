import { expect, it } from 'vitest';
import { peerUser } from '../../src/postgres/feed-timeouts.js';

it.each([
  ['postgres://repl%40x:secret@db:5432/shop', 'repl@x'],
  ['postgresql://db/shop?sslmode=require&user=repl', 'repl'],
  ['postgres://db/shop', undefined],
  ['host=db user=repl password=secret', 'repl'],
  [String.raw`user = 'it\'s me' dbname=shop`, "it's me"],
  ['host=db dbname=user', undefined],
])('the user by which the other server logs in: %s', (peerConninfo, user) => {
  expect(peerUser({ side: 'blue', connection: 'test', config: {}, peerConninfo })).toBe(user);
});
