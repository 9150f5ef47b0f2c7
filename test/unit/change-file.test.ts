import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { EntryFile } from '../../src/pgbouncer/entry.js';
import { Instance } from '../../src/pgbouncer/instance.js';
import type { PgBouncers } from '../../src/pgbouncer/pgbouncer.js';
import { changeFile } from '../../src/replace-file.js';
import type { Side } from '../../src/side.js';

let folder: string;
let file: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'verdigris-change-file-'));
  file = join(folder, 'databases.ini');
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

it('what another process writes meanwhile is changed, and not taken back', async () => {
  writeFileSync(file, 'one');
  let asked = 0;
  await changeFile(file, (text) => {
    asked += 1;
    // As another process would, after this text was read.
    if (asked === 1) writeFileSync(file, `${text} two`);
    return `${text} three`;
  });
  expect(readFileSync(file, 'utf8')).toBe('one two three');
  expect(readdirSync(folder)).toEqual(['databases.ini']);
});

it('a change that fails leaves the file, and the turn of the next one', async () => {
  writeFileSync(file, 'one');
  const failed = changeFile(file, () => {
    throw new RangeError('no');
  });
  const next = changeFile(file, (text) => `${text} two`);
  await expect(failed).rejects.toThrow('no');
  await next;
  expect(readFileSync(file, 'utf8')).toBe('one two');
});

it('two migrations whose PgBouncer includes one file leave the entries of each other where they are', async () => {
  const instanceOf = (migration: string): Instance => {
    const pooler = { connection: 'pgbouncer', config: {}, file };
    const aliases = { blue: `${migration}_blue`, green: `${migration}_green` };
    const setup: PgBouncers = {
      migration,
      instances: [pooler],
      databases: [migration],
      aliases,
      pauseTimeoutMs: 1_000,
    };
    return new Instance(pooler, setup);
  };
  const names = ['orders', 'billing'];
  const entry = (name: string): string =>
    `${name} = host=blue dbname=x\n${name}_blue = host=blue dbname=x\n${name}_green = host=green dbname=x\n`;
  writeFileSync(file, `[databases]\n${names.map(entry).join('')}`);
  const migrations = names.map((name) => ({ name, instance: instanceOf(name) }));
  for (let epoch = 1; epoch <= 20; epoch++) {
    const side: Side = epoch % 2 === 0 ? 'blue' : 'green';
    await Promise.all(migrations.map(({ instance }) => instance.write({ epoch, side, state: 'settled' })));
    const entries = new EntryFile(readFileSync(file, 'utf8'));
    expect(names.map((name) => entries.parameter(name, 'host'))).toEqual([side, side]);
  }
});
