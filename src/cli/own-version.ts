import { existsSync, readFileSync } from 'node:fs';

/** package.json, seen from the source and from what is built of it. */
const PLACES = ['../../package.json', '../../../package.json'];

/** The version of this package. */
export function ownVersion(): string {
  const manifest = PLACES.map((place) => new URL(place, import.meta.url)).find((place) => existsSync(place));
  if (manifest === undefined) return 'unknown: there is no package.json above the command';
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { readonly version: string };
  return version;
}
