import { expect, it } from 'vitest';
import { noSuchWorkflow } from '../../src/cli/message-command.js';
import { atServer } from '../../src/cli/start-request.js';

it('a command that the CLI names is about the server that was given, where another may have a run of that name', () => {
  const flags = { namespace: 'prod', address: 'temporal.example:7233' };
  expect(atServer(['verdigris', 'watch', 'shop'], flags)).toBe(
    'verdigris watch shop --address temporal.example:7233 --namespace prod',
  );
  expect(atServer(['verdigris', 'watch', 'shop'], {})).toBe('verdigris watch shop');
  expect(noSuchWorkflow('verdigris/shop', flags, undefined).nextStep).toMatch(
    /^see which there are: temporal workflow list --query 'WorkflowType="blueGreenMigration"' .*--namespace prod; /,
  );
});
