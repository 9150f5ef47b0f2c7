import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const text = readFileSync(`${root}/docs/connections.md`, 'utf8');

/** Every variable of ours that the code names, connections aside. */
function variables(): string[] {
  const files = ['src', 'activities', 'workflows'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => join(root, folder, name)),
  );
  const named = files.flatMap((file) =>
    [...readFileSync(file, 'utf8').matchAll(/VERDIGRIS_[A-Z_]*[A-Z]/g)].map(String),
  );
  return [...new Set(named.map((name) => name.replace(/_FILE$/, '')))].filter(
    (name) => !name.startsWith('VERDIGRIS_CONNECTION'),
  );
}

describe('docs/connections.md', () => {
  it.each(variables())('names the variable %s', (name) => {
    expect(text).toContain(`\`${name}\``);
  });
});
