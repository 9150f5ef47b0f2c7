import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { program } from '../../src/cli/program.js';

const text = readFileSync(new URL('../../docs/commands.md', import.meta.url), 'utf8');

/** The commands that do something, by what is written before their arguments. */
function leaves(command: Command, path: readonly string[] = []): (readonly [string, Command])[] {
  if (command.commands.length === 0) return [[path.join(' '), command]];
  return command.commands.flatMap((one) => leaves(one, [...path, one.name()]));
}

const verdigris = program({ out: () => undefined, note: () => undefined }, () => undefined);
const COMMANDS = leaves(verdigris);

/** What stands in backticks in the first cells of the rows of a table. */
const rows = (heading: string): string[][][] =>
  (text.split(heading)[1]?.split('\n## ')[0] ?? '')
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .map((line) => line.split(' | ').map((cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, code = '']) => code)));

describe('docs/commands.md', () => {
  it('has every command with its arguments and what else it must be given, and no other', () => {
    const usage = COMMANDS.map(([name, command]) =>
      [
        ...['verdigris', name, command.usage().replace('[options]', '').trim()].filter((word) => word !== ''),
        ...command.options.filter(({ mandatory }) => mandatory).map(({ flags }) => flags),
      ].join(' '),
    );
    expect(rows('# Commands\n').map(([first]) => first?.[0])).toEqual(usage);
  });

  it('has every option, with the commands that take it', () => {
    const known = COMMANDS.flatMap(([name, { options }]) => options.map(({ flags }) => `${name} ${flags}`));
    const told = rows('## Options\n').flatMap(([options = [], commands = []]) =>
      options.flatMap((flags) => commands.map((name) => `${name} ${flags}`)),
    );
    expect(told.sort()).toEqual(known.sort());
  });
});
