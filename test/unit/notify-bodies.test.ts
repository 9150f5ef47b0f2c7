import { expect, it } from 'vitest';
import { bodyOf } from '../../src/notify/bodies.js';

it('a message for a channel says when it was true, and where writes were', () => {
  const run = { name: 'shop', workflowId: 'verdigris/shop', runId: 'r1' };
  const notice = {
    ...{ sequence: 3, event: 'stage', text: 'reads of 25 % of the users are on green' },
    ...{ at: '2026-11-29T22:00:00.000Z', writesOn: 'blue' },
  };
  const { text } = JSON.parse(bodyOf('slack', run, notice, [])) as { text: string };
  expect(text).toBe('*shop* stage (2026-11-29T22:00:00.000Z, writes on blue): reads of 25 % of the users are on green');
});
