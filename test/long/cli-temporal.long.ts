import { expect, it } from 'vitest';
import { run } from '../../src/cli/run.js';

it('a server that is not there is said with its address and why', async () => {
  const { code, note } = await (async () => {
    const notes: string[] = [];
    const ended = await run(['status', 'x', '--address', '127.0.0.1:1'], {
      out: () => undefined,
      note: (t) => notes.push(t),
    });
    return { code: ended, note: notes.join('\n') };
  })();
  expect([code, note]).toEqual([
    2,
    expect.stringMatching(/no Temporal server answers at 127\.0\.0\.1:1 \(.+\)\nnext step: .*--db-filename FILE/),
  ]);
});
