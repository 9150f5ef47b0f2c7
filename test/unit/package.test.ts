import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';

interface Manifest {
  readonly version: string;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly peerDependencies: Readonly<Record<string, string>>;
  readonly exports: Readonly<Record<string, string | { readonly types: string }>>;
  readonly typesVersions: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>;
}

async function manifest(of = '.'): Promise<Manifest> {
  return JSON.parse(await readFile(`${of}/package.json`, 'utf8')) as Manifest;
}

describe('what an application installs with the router', () => {
  it("uses the application's own pg, whose defaults and classes are then the router's, too", async () => {
    const { dependencies, peerDependencies } = await manifest();
    const { version } = await manifest('node_modules/pg');
    const [, major, from = ''] = /^\^(\d+)\.(\d+)\.0$/.exec(peerDependencies.pg ?? '') ?? [];
    expect(dependencies.pg).toBeUndefined();
    expect(version.split('.')[0]).toBe(major);
    expect(Number(version.split('.')[1])).toBeGreaterThanOrEqual(Number(from));
    expect(dependencies['@types/pg']).toMatch(/^\^/);
  });

  it('tells its types where a compiler does not read "exports", too', async () => {
    const { exports, typesVersions } = await manifest();
    const typed = Object.entries(exports).flatMap(([path, entry]) =>
      typeof entry === 'string' ? [] : [[path.replace(/^\.\/?/, ''), [entry.types]] as const],
    );
    expect(typesVersions['*']).toEqual(Object.fromEntries(typed.filter(([path]) => path !== '')));
  });
});
