import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Files below a folder whose names end so. */
function files(folder: string, end: string): string[] {
  return readdirSync(`${root}${folder}`, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith(end))
    .map((name) => `${folder}/${name}`);
}

/** The doctor puts into what it says itself what it was asked about. */
const COMPLETED = /^src\/(postgres\/doctor\/|cli\/doctor-)/;

it('commands of the doctor that docs and messages name say which databases are meant', () => {
  const texts = [
    ...files('docs', '.md'),
    ...['src', 'activities', 'workflows'].flatMap((folder) => files(folder, '.ts')),
  ].filter((file) => !COMPLETED.test(file));
  expect(texts.length).toBeGreaterThan(100);
  const short = texts.filter((file) => /verdigris doctor --(?!blue)/.test(readFileSync(`${root}${file}`, 'utf8')));
  expect(short).toEqual([]);
});

it('commands that send a message say by whom and why', () => {
  const short = files('docs', '.md').filter((file) =>
    /`verdigris (rollback|pause|resume|retire) [^`]*`/g
      .exec(readFileSync(`${root}${file}`, 'utf8'))?.[0]
      .match(/^(?!.*--by .*--reason ).*$/),
  );
  expect(short).toEqual([]);
});
